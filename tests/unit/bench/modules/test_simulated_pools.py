"""Pools behind the router's selection, in virtual time."""

from __future__ import annotations

import pytest

from sun_sglang.bench.modules.prefill_load import Arrival, PrefillLoad
from sun_sglang.bench.modules.simulated_pools import PoolSizes, PoolsRun, SimulatedPools, simulate
from sun_sglang.sim.cost_model import CostModel

COSTS = CostModel(
    prefill=0.03, prefill_per_token=7e-5, decode_step=0.015, module_change=0.3, transfer=0.01, kv_tokens=100_000
)


def run(prefill: int, *, zipf: float = 1.5, rate: float = 6.0, costs: CostModel = COSTS) -> PoolsRun:
    load = PrefillLoad(20, zipf, rate, 1024, 30)
    return simulate(load, PoolSizes(prefill, 2), costs, answer=8, slo=1.0, warmup=5, seed=0)


def test_first_token_comes_after_a_change_a_batch_and_a_transfer() -> None:
    pools = SimulatedPools(PoolSizes(1, 1), 2, COSTS, answer=3, slo=1.0)
    pools.send(0, Arrival(1.0, 1, 1000))
    while pools.due < float("inf"):
        pools.step(pools.due)
    assert pools.waits == [(1.0, pytest.approx(0.3 + 0.1 + 0.01))]
    assert pools.changes == (1, pytest.approx(0.3))


def test_worker_of_its_own_never_changes() -> None:
    own = run(0)
    assert (own.changes_per_s, own.lost) == (0, 0)
    # the shortest prompt has 512 tokens
    assert 0.99 * (0.03 + 512 * 7e-5 + 0.01) < own.waits.seconds[0] < 0.1


@pytest.mark.parametrize("prefill", [0, 2, 4])
def test_every_measured_request_gets_its_first_token_once(prefill: int) -> None:
    measured = [a for a in PrefillLoad(20, 1.5, 6.0, 1024, 30).arrivals(0) if a.at >= 5]
    assert len(run(prefill).waits.seconds) == len(measured)


def test_more_workers_and_faster_changes_keep_more_requests_within_the_slo() -> None:
    shares = [run(prefill, rate=12.0).waits.within(1.0) for prefill in (2, 4, 8)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    slow, fast = (run(2, costs=COSTS.model_copy(update={"module_change": c})) for c in (0.6, 0.1))
    assert slow.waits.within(1.0) < fast.waits.within(1.0)
    assert 0 < fast.lost < slow.lost < 1


def test_hot_task_fills_its_own_worker_and_gets_several_shared_ones() -> None:
    # the hottest of 20 tasks has 83 % of 18 requests a second, more than one worker computes
    own, shared = run(0, zipf=3.0, rate=18.0), run(4, zipf=3.0, rate=18.0)
    assert own.waits.within(1.0) < 0.5 < shared.waits.within(1.0)
