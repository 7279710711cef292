from __future__ import annotations

import orjson
import pytest

from sun_sglang.router.dispatch.outcome.decision import AttemptFailed, Relay, decide
from sun_sglang.router.dispatch.outcome.missing_weights import lacks_weights
from sun_sglang.router.transport.messages import LegResponse

NAME = "sun-0000000000000001"
NOT_LOADED = f"The following requested LoRA adapters are not loaded: {NAME}\nLoaded adapters: odict_keys([])."


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (NOT_LOADED, True),
        (f"Got LoRA adapter that has never been loaded: {NAME}\nAll loaded adapters: dict_keys([]).", True),
        (f"Failed to implicitly load LoRA adapter {NAME}: no such file", True),
        (f"LoRA adapter '{NAME}' was requested, but LoRA is not enabled. Please launch", True),
        (NOT_LOADED.replace(NAME, "sun-0000000000000002"), False),
        (f"`text`: {NOT_LOADED}", False),
        ("the prompt is too long", False),
    ],
)
def test_refusal_means_a_missing_adapter_by_the_beginning_of_its_message_alone(message: str, found: bool) -> None:
    for error in ({"error": {"message": message}}, {"object": "error", "message": message, "code": 400}):
        assert lacks_weights(orjson.dumps(error), NAME) is found


@pytest.mark.parametrize(("adapter", "status", "failed"), [(NAME, 400, True), ("", 400, False), (NAME, 422, False)])
def test_missing_adapter_is_no_clients_fault(adapter: str, status: int, failed: bool) -> None:
    response = LegResponse(status, orjson.dumps({"error": {"message": NOT_LOADED}}))
    outcome = decide(response, None, adapter=adapter)
    if failed:
        assert isinstance(outcome, AttemptFailed)
        assert (outcome.leg, outcome.lacks_weights, outcome.eject, outcome.retry) == ("prefill", True, False, True)
        assert (outcome.error.status, outcome.error.code) == (503, "adapter_missing")
    else:
        assert isinstance(outcome, Relay)
