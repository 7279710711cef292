"""The number of workers by formula, against the schedulers of emulated workers; and costs from measured steps."""

from __future__ import annotations

import random

import pytest

from sun_sglang.autoscaling.demand import Demand, answer_demand
from sun_sglang.autoscaling.sizing import SloError, Target, require_feasible, step_seconds, workers_needed
from sun_sglang.autoscaling.step_cost import CorrectedCost, LearnedCost, MeasuredSteps, StepCost, step_cost
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import Admitted, DecodeScheduler

COSTS = CostModel(decode_step=0.01, decode_per_request=5e-5, decode_per_context_token=1e-6, kv_tokens=1 << 20)
PROMPT, ANSWER = 400, 100


def simulated_steps(rate: float, seconds: float) -> list[tuple[float, int]]:
    """Return the duration and the requests of each step of one worker under Poisson arrivals."""
    rng = random.Random(1)
    worker = DecodeScheduler(COSTS, kv_tokens=COSTS.kv_tokens)
    now, number, arrival = 0.0, 0, rng.expovariate(rate)
    steps = []
    while now < seconds:
        now = min(arrival, worker.due if worker.due is not None else arrival)
        if now == arrival:
            worker.submit(str(number), PROMPT, ANSWER)
            number, arrival = number + 1, arrival + rng.expovariate(rate)
        before = worker.totals
        for event in worker.step(now):
            if isinstance(event, Admitted):
                worker.arrive(event.rid)
        worker.step(now)
        if worker.totals.steps > before.steps:
            steps.append((worker.totals.seconds - before.seconds, worker.totals.requests - before.requests))
    return steps


@pytest.mark.parametrize("rate", [5.0, 15.0])
def test_step_time_of_a_simulated_worker_is_what_the_formula_gives(rate: float) -> None:
    demand = answer_demand(PROMPT, ANSWER).times(rate)
    expected = step_seconds(demand, step_cost(COSTS), 1)
    assert expected > 1.05 * COSTS.decode_step
    steps = simulated_steps(rate, 200.0)
    mean = sum(seconds * requests for seconds, requests in steps) / sum(requests for _, requests in steps)
    # as requests see it, a step is longer than on average, since more of them are in long ones
    assert sum(seconds for seconds, _ in steps) / len(steps) < expected * 1.05
    assert expected * 0.95 < mean < expected * 1.15


@pytest.mark.parametrize("share", [0.75, 0.9])
def test_so_large_a_share_of_the_steps_keeps_the_slo(share: float) -> None:
    slo = 0.03
    low, high = 0.0, 50.0
    while high - low > 1e-3:
        rate = (low + high) / 2
        need = workers_needed(answer_demand(PROMPT, ANSWER).times(rate), step_cost(COSTS), Target(slo, share, 1.0))
        low, high = (rate, high) if need.steps < 1 else (low, rate)
    steps = simulated_steps(low, 400.0)
    kept = sum(seconds <= slo for seconds, _ in steps) / len(steps)
    # a Poisson number is not quite normal, and where the mean is below the SLO the variance is less than there
    assert share - 0.03 < kept < share + (1 - share) * 0.9


def test_small_pool_needs_more_room_than_a_large_one() -> None:
    cost, one = step_cost(COSTS), answer_demand(PROMPT, ANSWER)
    target = Target(0.03)
    small, large = (workers_needed(one.times(rate), cost, target).steps / rate for rate in (10, 1000))
    assert small > 1.1 * large


def test_so_many_workers_meet_the_slo_exactly() -> None:
    cost, demand = step_cost(COSTS), answer_demand(PROMPT, ANSWER).times(300)
    need = workers_needed(demand, cost, Target(0.02, 0.5, 1.0))
    assert step_seconds(demand, cost, need.steps) == pytest.approx(0.02)
    assert workers_needed(demand, cost, Target(0.02, 0.5, 0.5)).steps == pytest.approx(2 * need.steps)
    assert step_seconds(demand, cost, 0.1) == float("inf")


def test_slo_below_a_lone_step_is_one_error() -> None:
    require_feasible(step_cost(COSTS), 0.011)
    with pytest.raises(SloError, match=r"autoscale\.slo\.tpot: no number of workers meets 10 ms: .* takes 10\.1 ms"):
        require_feasible(step_cost(COSTS), 0.01, "autoscale.slo.tpot")
    assert workers_needed(Demand(1, 1, 1), step_cost(COSTS), Target(0.005)).steps == float("inf")
    assert workers_needed(Demand(), step_cost(COSTS), Target(0.005)).workers == 0


def test_correction_follows_workers_that_are_slower_than_their_cost_model() -> None:
    cost = CorrectedCost(step_cost(COSTS))
    for _ in range(40):
        cost.note(MeasuredSteps(1.5 * COSTS.decode_seconds(10, 5000), 10, 5000))
    assert cost.current.base == pytest.approx(1.5 * COSTS.decode_step, rel=0.01)
    # a stall is no cost
    cost.note(MeasuredSteps(100.0, 10, 5000))
    assert cost.current.base < 2 * COSTS.decode_step
    cost.note(MeasuredSteps(0.0, 0, 0))


def test_learned_cost_is_unknown_until_contexts_differ_and_then_exact() -> None:
    true = StepCost(0.02, 0.0, 2e-6)
    cost = LearnedCost(kv_tokens=1000)
    for i in range(20):
        cost.note(MeasuredSteps(true.seconds(1, 10_000 + i), 1, 10_000 + i))
    assert cost.current is None
    for context in range(20_000, 60_000, 5000):
        cost.note(MeasuredSteps(true.seconds(1, context), 1, context))
    found = cost.current
    assert found is not None
    assert found.base == pytest.approx(true.base)
    assert found.per_context_token == pytest.approx(true.per_context_token)
    assert found.kv_tokens == 1000


def test_learned_cost_has_no_negative_term() -> None:
    falls, origin = LearnedCost(), LearnedCost()
    for i in range(1, 20):
        falls.note(MeasuredSteps(0.02 - 1e-4 * i, 1, 1000 * i))
        origin.note(MeasuredSteps(1e-9 * (1000 * i) ** 2, 1, 1000 * i))
    assert falls.current is not None
    assert origin.current is not None
    assert falls.current.per_context_token == 0
    assert (origin.current.base, origin.current.per_context_token > 0) == (0, True)
