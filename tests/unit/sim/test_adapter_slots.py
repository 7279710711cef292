"""The slots of LoRA adapters, alone and in the schedulers, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.sim.adapter_slots import AdapterSlots
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import Admitted, DecodeScheduler
from sun_sglang.sim.prefill_scheduler import PrefillScheduler

COSTS = CostModel(
    decode_step=1.0,
    prefill=1.0,
    prefill_per_token=0.01,
    lora_prefill=0.2,
    lora_prefill_per_adapter=0.1,
    lora_prefill_per_token=0.001,
    lora_decode=0.4,
    lora_decode_per_adapter=0.05,
    lora_decode_per_request=0.003,
    lora_slot=10.0,
)


def test_use_evicts_the_least_recently_used_adapter_and_counts_copies() -> None:
    slots = AdapterSlots(3)
    assert slots.use({None, "a", "b"}, 2.0) == 4.0
    assert slots.use({"a"}, 2.0) == 0.0
    assert slots.use({"c"}, 2.0) == 2.0
    assert slots.resident == ("a", "c")
    assert slots.use({"b"}, 1.0) == 1.0
    assert slots.cold == {"a": (1, 2.0), "b": (2, 3.0), "c": (1, 2.0)}


def test_use_evicts_the_slot_of_the_base_only_if_no_adapter_can_go() -> None:
    slots = AdapterSlots(2)
    slots.use({"a"}, 1.0)
    slots.use({"b"}, 1.0)
    assert slots.resident == ("b",)
    slots.use({"a", "b"}, 1.0)
    assert slots.resident == ("b", "a"), "the base had the other slot"
    assert slots.use({None, "a"}, 1.0) == 0.0, "requests without an adapter need no copy"
    assert slots.resident == ("a",)


def test_remove_frees_the_slot_and_keeps_the_count() -> None:
    slots = AdapterSlots(2)
    slots.use({"a"}, 1.0)
    slots.remove("a")
    slots.remove("nobody")
    assert slots.resident == ()
    assert slots.cold == {"a": (1, 1.0)}


@given(st.lists(st.sets(st.sampled_from(["a", "b", "c", "d", "e", None]), min_size=1, max_size=3)))
def test_use_makes_every_adapter_of_the_batch_resident_within_the_slots(batches: list[set[str | None]]) -> None:
    slots = AdapterSlots(3)
    for batch in batches:
        before = set(slots.resident)
        copied = slots.use(batch, 1.0)
        assert batch - {None} <= set(slots.resident)
        assert len(slots.resident) <= 3
        assert copied == len(batch - {None} - before)
    assert sum(c.loads for c in slots.cold.values()) == sum(c.seconds for c in slots.cold.values())


@pytest.mark.parametrize(
    ("adapters", "extra"),
    [
        ([None, None], 0.0),
        (["a", None], 0.2 + 0.1 + 0.001 * 30),
        (["a", "a"], 0.2 + 0.1 + 0.001 * 80),
        (["a", "b"], 0.2 + 0.2 + 0.001 * 80),
    ],
)
def test_prefill_batch_takes_longer_with_adapters(adapters: list[str | None], extra: float) -> None:
    assert COSTS.prefill_seconds([30, 50], adapters) == pytest.approx(COSTS.prefill_seconds([30, 50]) + extra)


def test_decode_step_takes_longer_with_adapters() -> None:
    plain = COSTS.decode_seconds(3, 100)
    assert COSTS.decode_seconds(3, 100, [None] * 3) == plain
    assert COSTS.decode_seconds(3, 100, ["a", None, "a"]) == pytest.approx(plain + 0.4 + 0.05 + 2 * 0.003)
    assert COSTS.decode_seconds(3, 100, ["a", None, "b"]) == pytest.approx(plain + 0.4 + 0.1 + 2 * 0.003)


def test_prefill_prompt_without_a_free_slot_waits_and_later_ones_pass_it() -> None:
    slots = AdapterSlots(2)
    scheduler = PrefillScheduler(COSTS, kv_tokens=1000, slots=slots)
    for rid, adapter in (("1", "a"), ("2", "b"), ("3", "c"), ("4", None), ("5", "a")):
        scheduler.submit(rid, 10, adapter=adapter)
    done = []
    now = 0.0
    while scheduler.waiting or scheduler.due is not None:
        done.append([p.rid for p in scheduler.step(now)])
        now = scheduler.due if scheduler.due is not None else now
    assert done == [[], ["1", "2", "5"], ["3", "4"]]
    assert {name: cold.loads for name, cold in slots.cold.items()} == {"a": 1, "b": 1, "c": 1}
    first = 2 * 10.0 + COSTS.prefill_seconds([10, 10, 10], ["a", "b", "a"])
    second = 10.0 + COSTS.prefill_seconds([10, 10], ["c", None])
    assert now == pytest.approx(first + second)


def test_decode_request_without_a_free_slot_is_admitted_once_one_is_free() -> None:
    scheduler = DecodeScheduler(COSTS, kv_tokens=1000, reserved=0, slots=AdapterSlots(2))
    for rid, adapter in (("1", "a"), ("2", "b"), ("3", "c"), ("4", "a")):
        scheduler.submit(rid, 10, 2, adapter=adapter)
    assert scheduler.step(0.0) == [Admitted("1"), Admitted("2"), Admitted("4")]
    for rid in ("1", "2", "4"):
        scheduler.arrive(rid)
    scheduler.step(0.0)
    seconds = 2 * 10.0 + COSTS.decode_seconds(3, 33, ["a", "b", "a"])
    assert scheduler.due == pytest.approx(seconds)
    assert Admitted("3") in scheduler.step(seconds)
