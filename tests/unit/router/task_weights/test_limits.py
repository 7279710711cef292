from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.contracts.adapter import Fingerprint
from sun_sglang.router.task_weights.limits import weights_fault
from tests.unit.router.fake_worker import VOCAB
from tests.unit.router.registries import card
from tests.unit.router.weights_refs import LIMITS, adapter, module


def fingerprint_of(token: int) -> Fingerprint:
    return Fingerprint(tokens=(1, token), adapter=(-2.0,), base=(-1.0,))


@pytest.mark.parametrize(
    ("of_adapter", "of_card", "why"),
    [
        ({}, {}, ""),
        ({"base": "w"}, {}, ""),
        ({"rank": 16, "target_modules": ("q_proj", "v_proj")}, {}, ""),
        ({"target_modules": ("down_proj",)}, {"adapters": {**LIMITS, "target_modules": ["all"]}}, ""),
        ({}, {"adapters": None}, "it accepts no adapters; set `enable_lora: true`"),
        ({}, {"dp_size": 2}, "it has 2 data-parallel ranks"),
        ({"base": "v"}, {}, "the adapter was made for weights v, and it has weights w"),
        ({"fingerprint": fingerprint_of(VOCAB - 1)}, {}, ""),
        ({"fingerprint": fingerprint_of(VOCAB)}, {}, f"the adapter's fingerprint has the token {VOCAB}, and"),
        ({"rank": 17}, {}, "the adapter has rank 17, and it accepts up to 16"),
        (
            {"target_modules": ("k_proj", "q_proj")},
            {},
            "the adapter changes `k_proj`, and it accepts `q_proj`, `v_proj`",
        ),
    ],
)
def test_adapter_on_a_worker_that_cannot_have_it_is_refused_with_the_difference(
    of_adapter: dict[str, Any], of_card: dict[str, Any], why: str
) -> None:
    found = weights_fault(card("prefill", **{"adapters": LIMITS, **of_card}), adapter(1, **of_adapter))
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_module_is_accepted_by_every_worker_that_takes_modules_and_by_no_other() -> None:
    assert weights_fault(card("prefill", modules={"host_bytes": 0}), module(1)) == ""
    assert weights_fault(card("prefill", adapters=LIMITS), module(1)).startswith("it serves its own model alone")
