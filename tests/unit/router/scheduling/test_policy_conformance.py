"""The contract of every routing policy.

A new policy is in `POLICIES` and is tested here without a change of this file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.scheduling.policies import POLICIES, make_policy
from sun_sglang.router.scheduling.prefix_keys import PrefixKeys
from sun_sglang.router.workers.worker import Worker
from sun_sglang.topology import DecodePolicy, PrefillPolicy, Role

KEYS = st.lists(st.integers(0, 5), max_size=3).map(tuple).map(PrefixKeys)
REQUESTS = st.lists(st.tuples(st.integers(0, 5000), KEYS), min_size=1, max_size=30)
LOADS = st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9)), min_size=1, max_size=6)

Named = tuple[str, Role]
"""A policy's name, and the role of the workers among which it picks."""
# `cache_affinity` alone differs by role
EACH: Sequence[Named] = [*((name, "prefill") for name in sorted(POLICIES)), ("cache_affinity", "decode")]
each_policy = pytest.mark.parametrize("named", EACH, ids="-".join)


def make_workers(loads: Sequence[tuple[int, int]]) -> list[Worker]:
    workers = [Worker(FleetWorker(name=f"w{i}", pool="p", url="http://h:1"), "prefill") for i in range(len(loads))]
    for worker, (tokens, requests) in zip(workers, loads, strict=True):
        worker.load.set_external(requests, tokens)
    return workers


def serve(named: Named, workers: Sequence[Worker], requests: Sequence[tuple[int, PrefixKeys]], seed: int) -> list[str]:
    """Pick a worker for each request, as the router does: it numbers each pick and adds the cost to the load."""
    policy, picked = make_policy(*named, random.Random(seed)), []
    for number, (cost, keys) in enumerate(requests, start=1):
        worker = policy.pick(workers, cost, keys)
        worker.note_pick(number)
        worker.load.acquire(cost)
        picked.append(worker.name)
    return picked


def test_policies_of_the_topology_file_are_the_registered_ones() -> None:
    decode, more = get_args(DecodePolicy), get_args(PrefillPolicy)
    prefill = {name for part in more for name in (get_args(part) or (part,))}
    assert set(decode) | prefill == set(POLICIES)


@each_policy
@given(LOADS, REQUESTS)
def test_policy_picks_one_of_the_candidates(
    named: Named, loads: list[tuple[int, int]], requests: list[tuple[int, PrefixKeys]]
) -> None:
    workers = make_workers(loads)
    assert set(serve(named, workers, requests, 0)) <= {worker.name for worker in workers}


@each_policy
@given(LOADS, REQUESTS)
def test_policy_with_the_same_seed_and_loads_picks_the_same(
    named: Named, loads: list[tuple[int, int]], requests: list[tuple[int, PrefixKeys]]
) -> None:
    assert serve(named, make_workers(loads), requests, 7) == serve(named, make_workers(loads), requests, 7)


@each_policy
@given(LOADS, st.integers(0, 5000), KEYS)
def test_policy_changes_neither_the_candidates_nor_their_loads(
    named: Named, loads: list[tuple[int, int]], cost: int, keys: PrefixKeys
) -> None:
    workers = make_workers(loads)
    given_workers = tuple(workers)
    before = [(w.load.total_requests, w.load.total_tokens, w.last_pick) for w in workers]
    make_policy(*named, random.Random(0)).pick(workers, cost, keys)
    assert tuple(workers) == given_workers
    assert [(w.load.total_requests, w.load.total_tokens, w.last_pick) for w in workers] == before


@each_policy
@given(LOADS, REQUESTS, st.data())
def test_policy_picks_no_worker_that_left(
    named: Named, loads: list[tuple[int, int]], requests: list[tuple[int, PrefixKeys]], data: st.DataObject
) -> None:
    workers, policy = make_workers(loads), make_policy(*named, random.Random(0))
    for cost, keys in requests:
        present = data.draw(st.lists(st.sampled_from(workers), min_size=1, unique=True))
        assert policy.pick(present, cost, keys) in present


@each_policy
def test_policy_leaves_no_equal_worker_idle(named: Named) -> None:
    workers = make_workers([(0, 0)] * 4)
    keys = random.Random(0).sample(range(1 << 60), 400)
    picked = serve(named, workers, [(100, PrefixKeys((key,))) for key in keys], 0)
    assert set(picked) == {worker.name for worker in workers}


@each_policy
@given(LOADS, REQUESTS)
def test_policy_that_declares_to_read_no_prefix_reads_none(
    named: Named, loads: list[tuple[int, int]], requests: list[tuple[int, PrefixKeys]]
) -> None:
    if make_policy(*named, random.Random(0)).reads_prefix:
        return
    without = [(cost, PrefixKeys()) for cost, _ in requests]
    assert serve(named, make_workers(loads), requests, 3) == serve(named, make_workers(loads), without, 3)


@each_policy
@given(LOADS, st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_policy_works_for_prompts_without_keys(named: Named, loads: list[tuple[int, int]], costs: list[int]) -> None:
    assert len(serve(named, make_workers(loads), [(cost, PrefixKeys()) for cost in costs], 0)) == len(costs)
