from __future__ import annotations

import random

import pytest

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.scheduling.adapter_affinity import PROMPTS_AHEAD, prefer_resident
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair
from sun_sglang.topology import Policies
from tests.unit.router.weights_refs import adapter

COST = 100


def pairs_of(*prefills: tuple[int, bool], tasks_adapter: bool = True) -> list[Pair]:
    """Return the pairs of prefill workers, each with a load in tokens and with or without the task's adapter."""
    found = []
    decode = Worker(FleetWorker(name="d", pool="d", url="http://d:1"), "decode")
    for number, (tokens, holds) in enumerate(prefills):
        worker = Worker(FleetWorker(name=f"p{number}", pool="p", url="http://p:1"), "prefill")
        worker.load.acquire(tokens)
        if holds:
            worker.resident.note_request(adapter(1).name, 8)
        found.append(Pair(worker, decode, adapter(1) if tasks_adapter else None))
    return found


def names(pairs: list[Pair]) -> list[str]:
    return [pair.prefill.name for pair in prefer_resident(pairs, COST)]


@pytest.mark.parametrize(
    ("prefills", "chosen"),
    [
        ([(0, False), (0, True)], ["p1"]),
        ([(0, False), (PROMPTS_AHEAD * COST - 1, True)], ["p1"]),
        ([(0, False), (PROMPTS_AHEAD * COST, True)], ["p0", "p1"]),
        ([(0, False), (0, False)], ["p0", "p1"]),
        ([(900, True), (0, True)], ["p0", "p1"]),
        ([(0, False), (900, True), (50, True)], ["p2"]),
        # many prompts on every worker: the bound is a part of the mean load
        ([(10_000, False), (11_000, True)], ["p1"]),
        ([(10_000, False), (20_000, True)], ["p0", "p1"]),
        ([(500, True)], ["p0"]),
    ],
)
def test_worker_that_holds_the_adapter_is_preferred_until_it_is_overloaded(
    prefills: list[tuple[int, bool]], chosen: list[str]
) -> None:
    assert names(pairs_of(*prefills)) == chosen


def test_task_without_an_adapter_has_no_preference() -> None:
    assert names(pairs_of((0, False), (0, True), tasks_adapter=False)) == ["p0", "p1"]


@pytest.mark.parametrize("policy", ["least_tokens", "round_robin", "random", "prefix_affinity", "cache_affinity"])
def test_every_policy_picks_among_the_workers_that_hold_the_adapter(policy: str) -> None:
    selector = PairSelector(Policies.model_validate({"prefill": policy}), random.Random(0))
    pairs = pairs_of((0, False), (50, True), (60, True))
    for _ in range(20):
        chosen = selector.select(pairs, Cost(COST, COST))
        assert chosen is not None
        assert chosen.prefill.name in ("p1", "p2")
        assert chosen.weights == adapter(1)
