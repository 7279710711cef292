from __future__ import annotations

import orjson
import pytest

from sun_sglang.contracts.module import NOT_HELD, TaskWeights
from sun_sglang.router.dispatch.outcome.decision import AttemptFailed, Relay, decide
from sun_sglang.router.dispatch.outcome.missing_weights import lacks_weights
from sun_sglang.router.transport.messages import LegResponse
from tests.unit.router.weights_refs import adapter, module

ADAPTER, MODULE = adapter(1), module(1)
NAME = ADAPTER.name
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
        assert lacks_weights(orjson.dumps(error), ADAPTER) is found


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (NOT_HELD.format(revision=MODULE.revision), True),
        (NOT_HELD.format(revision=MODULE.revision) + " any more: its directory is gone", True),
        (NOT_HELD.format(revision=module(2).revision), False),
        (f"`text`: {NOT_HELD.format(revision=MODULE.revision)}", False),
        (NOT_LOADED, False),
    ],
)
def test_refusal_means_a_missing_module_by_the_beginning_of_its_message_alone(message: str, found: bool) -> None:
    assert lacks_weights(orjson.dumps({"error": {"message": message}}), MODULE) is found


NOT_GIVEN = NOT_HELD.format(revision=MODULE.revision)


@pytest.mark.parametrize(
    ("weights", "message", "status", "failed"),
    [
        (ADAPTER, NOT_LOADED, 400, "adapter_missing"),
        (None, NOT_LOADED, 400, ""),
        (ADAPTER, NOT_LOADED, 422, ""),
        (MODULE, NOT_GIVEN, 400, "module_missing"),
        (MODULE, NOT_GIVEN, 422, ""),
        (None, NOT_GIVEN, 400, ""),
    ],
)
def test_missing_weights_are_no_clients_fault(
    weights: TaskWeights | None, message: str, status: int, failed: str
) -> None:
    response = LegResponse(status, orjson.dumps({"error": {"message": message}}))
    outcome = decide(response, None, weights=weights)
    if failed:
        assert isinstance(outcome, AttemptFailed)
        assert (outcome.leg, outcome.lacks_weights, outcome.eject, outcome.retry) == ("prefill", True, False, True)
        assert (outcome.error.status, outcome.error.code) == (503, failed)
    else:
        assert isinstance(outcome, Relay)
