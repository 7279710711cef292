"""The fewest workers for a load."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sun_sglang.plan.comparison import Costs, compare
from sun_sglang.plan.digest import Digest
from sun_sglang.plan.outcome import Cause, Objectives, PlanError
from sun_sglang.plan.sizing import Load, play, size
from sun_sglang.plan.system import PlannedPool, System, arranged
from sun_sglang.plan.traffic import Arrival
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.topology import Role
from sun_sglang.topology_file import parse_topology

COSTS = CostModel(
    decode_step=0.0142, decode_per_context_token=1.39e-7, prefill=0.0287, prefill_per_token=7e-5, kv_tokens=400_000
)
TOPOLOGY = """
pools: {b: {role: decode, model: b}, p: {role: prefill, model: p}}
tasks: {t0: &pair {prefill: p, decode: b}, t1: *pair, t2: *pair, t3: *pair}
backend: emulated
"""
SLO = Objectives(time_to_first_token=0.5, inter_token_latency=0.020)


def load(rate: float, objectives: Objectives = SLO, seconds: float = 90.0, skew: float = 1.0) -> Load:
    draw, now, arrivals = random.Random(2), 0.0, []
    while (now := now + draw.expovariate(rate)) < seconds:
        arrivals.append(Arrival(now, int(4 * draw.random() ** skew), 1024, 200))
    return Load(arrivals, seconds, objectives, 0.95, begin=15.0)


def system(*shares: Role, costs: CostModel = COSTS) -> System:
    pools = PlannedPool("prefill", 1, costs), PlannedPool("decode", 1, costs)
    return arranged("system", [f"t{i}" for i in range(4)], *pools, shares=frozenset(shares))


@pytest.mark.parametrize("shares", [("decode",), ()], ids=["shared", "isolated"])
def test_size_is_enough_and_one_worker_less_of_any_decode_pool_is_not(shares: tuple[Role, ...]) -> None:
    offered = load(24.0, skew=2.0)
    found = size(system(*shares), offered, most=64)
    best = found.best.system
    assert found.best.whole
    assert found.best.outcome.all.ratio >= 0.95
    for name in best.names("decode"):
        if best.pools[name].workers > 1:
            fewer = play(best.resized({name: best.pools[name].workers - 1}), offered)
            assert fewer.outcome.pools[name].missed({Cause.TPOT, Cause.MEMORY}) > 0.025
    assert found.breaks_first is Cause.TPOT


def test_size_of_little_kv_memory_names_the_memory() -> None:
    small = system("decode", costs=COSTS.model_copy(update={"kv_tokens": 6000}))
    found = size(small, load(12.0, Objectives(time_to_first_token=0.5)), most=64)
    assert found.breaks_first is Cause.MEMORY
    assert found.best.system.workers("decode") > size(
        system("decode"), load(12.0, Objectives(time_to_first_token=0.5)), most=64
    ).best.system.workers("decode")


@pytest.mark.parametrize(
    ("objectives", "reason"),
    [
        (Objectives(inter_token_latency=0.010), "a decode step with one request alone takes 14.3 ms"),
        (Objectives(time_to_first_token=0.050), "a prompt of 1024 tokens alone takes 100 ms"),
        (Objectives(request_latency=1.0), "an answer of 200 tokens alone takes too long"),
    ],
)
def test_size_for_an_objective_that_no_pool_meets_fails_with_the_reason(objectives: Objectives, reason: str) -> None:
    with pytest.raises(PlanError, match=f"no number of workers .*{reason}; 100.0 % of the requests miss it"):
        size(system("decode"), load(4.0, objectives), most=64)


def test_size_above_the_most_workers_fails_with_the_pool() -> None:
    with pytest.raises(PlanError, match=r"--max-workers: 2 workers of pool `decode-shared` .*decode steps"):
        size(system("decode", "prefill"), load(14.0, Objectives(inter_token_latency=0.016)), most=2)


def test_comparison_has_fewer_decode_workers_where_tasks_share_them() -> None:
    topology = parse_topology(TOPOLOGY, base=Path())
    quantized = COSTS.model_copy(update={"decode_step": 0.0076})
    planned = compare(topology, ["sun", "qsun", "isolated"], Costs(COSTS, quantized), load(20.0, skew=3.0), most=64)
    sun, qsun, isolated = (one.as_json(90.0) for one in planned)
    assert qsun["decode_workers"] < sun["decode_workers"] < isolated["decode_workers"]
    assert sun["gpu_hours"] == pytest.approx((sun["prefill_workers"] + sun["decode_workers"]) * 90 / 3600)
    assert sun["within_slo"] >= 0.95 > sun["with_fewer"]["within_slo"]


def test_digest_percentile_of_many_values_is_within_a_thousandth() -> None:
    draw, digest = random.Random(0), Digest()
    values = sorted(draw.lognormvariate(-3, 2) for _ in range(4000))
    for value in values:
        digest.add(value)
    for percent in (1, 50, 95, 99, 99.9):
        exact = values[int((len(values) - 1) * percent / 100)]
        assert digest.percentile(percent) == pytest.approx(exact, rel=0.0011)
    assert digest.mean == pytest.approx(sum(values) / len(values))
