"""A grid of workers selects the pairs that the list of its pairs selects."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.pair_grid import PairGrid
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.scheduling.policies import POLICIES
from sun_sglang.router.scheduling.prefix_keys import PrefixKeys
from sun_sglang.router.scheduling.ranked_workers import RankedWorkers, by_requests, by_tokens
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair
from sun_sglang.topology import Policies, Role

# a request: its prompt, its answer, the beginning of its prompt, and the earlier request that ends before it
REQUESTS = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=40
)


def make_workers(count: int, role: Role) -> RankedWorkers:
    return RankedWorkers(
        [Worker(FleetWorker(name=f"{role}-{i}", pool=role, url="http://h:1"), role) for i in range(count)]
    )


def selections(pairs: Sequence[Pair], policy: str, requests: Sequence[tuple[int, int, int, int]]) -> list[str]:
    decode = "least_tokens" if policy == "prefix_affinity" else policy
    selector = PairSelector(Policies.model_validate({"prefill": policy, "decode": decode}), random.Random(1))
    running: list[tuple[Pair, Cost]] = []
    selected = []
    for number, (prompt, answer, beginning, ended) in enumerate(requests, start=1):
        if running:
            pair, cost = running.pop(ended % len(running))
            pair.prefill.load.release(cost.prefill)
            pair.decode.load.release(cost.decode)
        cost = Cost(prompt, prompt + answer)
        found = selector.select(pairs, cost, PrefixKeys((beginning,), (prompt,)))
        assert found is not None
        for worker in found:
            worker.note_pick(number)
        found.prefill.load.acquire(cost.prefill)
        found.decode.load.acquire(cost.decode)
        running.append((found, cost))
        selected.append(" ".join(found.path))
    return selected


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=25, deadline=None)
@given(REQUESTS, st.integers(1, 4), st.integers(1, 5))
def test_grid_under_any_load_selects_as_the_list_of_its_pairs(
    policy: str, requests: list[tuple[int, int, int, int]], prefills: int, decodes: int
) -> None:
    grid = PairGrid(make_workers(prefills, "prefill"), make_workers(decodes, "decode"))
    listed = list(PairGrid(make_workers(prefills, "prefill"), make_workers(decodes, "decode")))
    assert len(listed) == len(grid)
    assert [pair.path for pair in grid[:]] == [pair.path for pair in listed]
    assert selections(grid, policy, requests) == selections(listed, policy, requests)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), max_size=40))
def test_ranked_workers_after_any_change_find_the_least(changes: list[tuple[int, int, int]]) -> None:
    workers = make_workers(4, "prefill")
    for place, kind, tokens in changes:
        load = workers[place].load
        if kind == 0 and load.requests:
            load.release(load.tokens // load.requests)
        elif kind == 1:
            load.set_external(tokens % 2, tokens)
        else:
            load.acquire(tokens)
        for rank in (by_tokens, by_requests):
            assert workers.least(rank) is min(workers, key=rank)


def test_heap_of_a_ranking_does_not_grow_with_the_requests() -> None:
    workers = [Worker(FleetWorker(name=f"d{i}", pool="d", url=f"http://d{i}"), "decode") for i in range(3)]
    ranked, draw = RankedWorkers(workers), random.Random(0)
    held: list[tuple[Worker, int]] = []
    for number in range(2000):
        picked = ranked.least(by_tokens)
        assert picked is min(workers, key=by_tokens)
        tokens = draw.randrange(1, 1000)
        picked.load.acquire(tokens)
        picked.note_pick(number + 1)
        held.append((picked, tokens))
        if len(held) > 20:
            worker, tokens = held.pop(draw.randrange(len(held)))
            worker.load.release(tokens)
    (heap,) = ranked._heaps.values()
    assert len(heap._entries) <= 4 * len(workers)
