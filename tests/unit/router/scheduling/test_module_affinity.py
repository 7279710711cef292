from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.contracts.modules_report import ModulesReport
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.module_affinity import (
    PROMPTS_A_CHANGE,
    added_changes,
    change_tokens,
    prefer_module,
    worker_cost,
)
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.task_weights.worker_modules import OWN
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair
from sun_sglang.topology import Policies
from tests.unit.router.registries import card
from tests.unit.router.weights_refs import MODULE_LIMITS, module

COST = 100
CHANGE = 1000
TASK = module(0)
M = TASK.revision
A, B, C = (module(number).revision for number in (1, 2, 3))


class On(NamedTuple):
    """A worker: its loaded module, the modules that requests of 0 tokens wait for, and its load in tokens."""

    loaded: str
    wanted: Sequence[str] = ()
    tokens: int = 0


def worker(number: int, on: On, change: int = CHANGE, *, changes: bool = True) -> Worker:
    found = Worker(FleetWorker(name=f"p{number}", pool="p", url="http://p:1"), "prefill")
    found.accept_card(card("prefill", **({"modules": MODULE_LIMITS} if changes else {})), "")
    found.modules.begin_report()
    found.modules.end_report(
        ModulesReport(
            loaded=on.loaded or "f" * 16,
            own="f" * 16,
            change_seconds=change / 1e4,
            tokens_per_second=1e4 if change else 0,
        )
    )
    found.load.set_external(0, on.tokens)
    for wanted in on.wanted:
        found.load.acquire(0)
        found.modules.acquire(wanted)
    return found


def pairs_of(*workers: Worker, task: ModuleRef | None = TASK) -> list[Pair]:
    decode = Worker(FleetWorker(name="d", pool="d", url="http://d:1"), "decode")
    return [Pair(one, decode, task) for one in workers]


def chosen(*on: On, task: ModuleRef | None = TASK, change: int = CHANGE) -> list[str]:
    pairs = pairs_of(*(worker(number, one, change) for number, one in enumerate(on)), task=task)
    return [pair.prefill.name for pair in prefer_module(pairs, COST)]


@pytest.mark.parametrize(
    ("on", "names"),
    [
        ([On(A), On(M)], ["p1"]),
        ([On(A), On(M, [M], 2 * CHANGE)], ["p1"]),
        ([On(A), On(M, [M], 2 * CHANGE + 1)], ["p0"]),
        # every request on the other worker would wait for the change
        ([On(A, [A]), On(M, [M], 3 * CHANGE)], ["p1"]),
        ([On(A, [A]), On(M, [M], 3 * CHANGE + 1)], ["p0"]),
        # the change to a module that requests wait for is made anyway, and counts as a wait
        ([On(A, [A, M], CHANGE), On(B)], ["p0"]),
        ([On(A, [A, M], CHANGE + 1), On(B)], ["p1"]),
        # the loaded module has no requests, and is about to go
        ([On(M, [A]), On(B)], ["p1"]),
    ],
    ids=[
        "loaded",
        "as_dear",
        "dearer",
        "busy_as_dear",
        "busy_dearer",
        "waited_for",
        "waited_for_dearer",
        "about_to_go",
    ],
)
def test_worker_that_has_the_module_is_preferred_until_waiting_costs_more_than_a_change(
    on: list[On], names: list[str]
) -> None:
    assert chosen(*on) == names


@pytest.mark.parametrize(
    ("on", "names"),
    [
        ([On(A, [A]), On(B)], ["p1"]),
        ([On(A, [A]), On(B, [], CHANGE)], ["p0", "p1"]),
        ([On(A, [A]), On(B, [], 2 * CHANGE)], ["p0"]),
        ([On(A, [A, A]), On(C, [C])], ["p1"]),
        ([On(A, [B]), On(C, [C])], ["p1"]),
        ([On(A, tokens=CHANGE - 1), On(B)], ["p0", "p1"]),
        ([On(A, tokens=CHANGE), On(B)], ["p1"]),
    ],
    ids=[
        "idle_first",
        "idle_as_dear",
        "idle_dearer",
        "fewer_wait",
        "fewer_changes_ahead",
        "within_a_change",
        "a_change_more",
    ],
)
def test_module_that_is_nowhere_displaces_the_cheapest(on: list[On], names: list[str]) -> None:
    assert chosen(*on) == names


def test_pools_own_model_is_a_module_among_the_others() -> None:
    assert chosen(On(A), On(OWN), task=None) == ["p1"]
    assert chosen(On(OWN), On(M)) == ["p1"]


def test_hot_module_gets_another_worker_once_its_own_is_ahead_by_more_than_a_change_costs() -> None:
    workers = [worker(number, On(one)) for number, one in enumerate((M, A, B))]
    pairs, names = pairs_of(*workers), []
    selector = PairSelector(Policies(prefill="least_tokens", decode="least_tokens"), random.Random(1))
    for _ in range(2 * CHANGE // COST + 2):
        pair = selector.select(pairs, Cost(COST, COST))
        assert pair is not None
        pair.prefill.load.acquire(COST)
        pair.prefill.modules.acquire(M)
        names.append(pair.prefill.name)
    assert names == ["p0"] * (2 * CHANGE // COST + 1) + ["p1"]
    assert added_changes(workers[1], M) == 0, "the second worker has the module from now on"


def test_change_that_was_not_measured_counts_as_some_prompts() -> None:
    unmeasured = worker(0, On(A), change=0)
    assert change_tokens([unmeasured], COST) == PROMPTS_A_CHANGE * COST
    assert chosen(On(A), On(M, [M], 2 * PROMPTS_A_CHANGE * COST), change=0) == ["p1"]
    assert chosen(On(A), On(M, [M], 2 * PROMPTS_A_CHANGE * COST + 1), change=0) == ["p0"]


def test_pool_without_modules_has_no_preference() -> None:
    workers = [worker(number, On(one), changes=False) for number, one in enumerate((A, M))]
    pairs = pairs_of(*workers, task=None)
    assert prefer_module(pairs, COST) is pairs


@pytest.mark.parametrize("policy", ["least_tokens", "round_robin", "random", "cache_affinity", "prefix_affinity"])
def test_every_policy_picks_at_most_one_change_above_the_cheapest_worker(policy: str) -> None:
    rng = random.Random(7)
    revisions = [OWN, M, A, B, C]
    for _ in range(300):
        change = rng.choice((0, 1, 100, CHANGE, 10_000))
        workers = [
            worker(
                number,
                On(
                    rng.choice(revisions),
                    rng.choices(revisions, k=rng.randrange(5)),
                    rng.choice((0, 1, COST, CHANGE, rng.randrange(20_000))),
                ),
                change,
            )
            for number in range(rng.randrange(1, 6))
        ]
        task = rng.choice((None, module(0), module(1)))
        pairs = pairs_of(*workers, task=task)
        selector = PairSelector(Policies.model_validate({"prefill": policy, "decode": "least_tokens"}), rng)
        pair = selector.select(pairs, Cost(COST, COST))
        assert pair is not None
        assert pair.weights == task
        tokens = change_tokens(workers, COST)
        costs = {one: worker_cost(one, pair.module, tokens) for one in workers}
        least = min(costs.values())
        assert costs[pair.prefill] <= least + tokens
        if any(one.modules.has(pair.module) for one in workers if costs[one] == least):
            assert pair.prefill.modules.has(pair.module)
