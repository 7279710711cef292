from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sun_sglang.contracts.worker_card import WorkerCard
from tests.unit.router.fake_worker import FakeWorker, Rooms


def card(**changes: Any) -> dict[str, Any]:
    return FakeWorker("decode", "w", Rooms(), **changes).card


def test_worker_card_with_an_unknown_field_is_read() -> None:
    assert WorkerCard.model_validate(card(later_field=1)).role == "decode"


def test_worker_card_whose_identity_has_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"identity\.later_field"):
        WorkerCard.model_validate(card(identity={"later_field": 1}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"incarnation": "x" * 257}, "incarnation"),
        ({"kv_tokens": 0}, "kv_tokens"),
        ({"bootstrap_port": 65536}, "bootstrap_port"),
        ({"patches": [{"name": "a", "target": "b", "state": "applied"}] * 65}, "patches"),
        ({"identity": {"rope": "x" * ((1 << 16) + 1)}}, "identity.rope"),
    ],
)
def test_worker_card_with_a_value_out_of_bounds_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        WorkerCard.model_validate(card(**changes))


def test_worker_card_module_names_the_flags_that_change_the_kv() -> None:
    plain, quantized = (
        WorkerCard.model_validate(card(module_flags=flags)) for flags in ("", '{"quantization": "fp8"}')
    )
    assert plain.module == "w"
    assert quantized.module.startswith("w.")
