"""A deployment in virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.bench.modules.simulated_pools import PoolSizes
from sun_sglang.bench.modules.simulated_pools import simulate as simulate_steps
from sun_sglang.plan.outcome import Cause, Objectives, Outcome
from sun_sglang.plan.simulator import Request, Simulator, simulate
from sun_sglang.plan.system import Admission, PlannedPool, System, arranged
from sun_sglang.plan.traffic import Arrival
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.topology import Role

COSTS = CostModel(
    decode_step=0.0142,
    decode_per_context_token=1.39e-7,
    prefill=0.0287,
    prefill_per_token=7e-5,
    transfer_per_byte=3e-12,
)


class Ended:
    """Keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def note(self, request: Request) -> None:
        self.requests.append(request)


def system(prefill: int, decode: int, *shares: Role, tasks: int = 4, admission: Admission = Admission()) -> System:  # noqa: B008 - it is frozen
    names = [f"t{i}" for i in range(tasks)]
    pools = PlannedPool("prefill", prefill, COSTS), PlannedPool("decode", decode, COSTS)
    made = arranged("system", names, *pools, shares=frozenset(shares))
    return System("system", made.pools, made.tasks, admission=admission)


def load(rate: float, seconds: float, tasks: int = 4, prompt: int = 600, answer: int = 64) -> Iterator[Arrival]:
    draw, now = random.Random(1), 0.0
    while (now := now + draw.expovariate(rate)) < seconds:
        yield Arrival(now, draw.randrange(tasks), prompt, answer)


def test_simulation_has_the_first_tokens_of_one_that_makes_each_step() -> None:
    waits = simulate_steps(
        PrefillLoad(4, 0.0, 12.0, 1024, 30.0), PoolSizes(0, 2), COSTS, answer=128, slo=1.0, warmup=0.0, seed=3
    ).waits.seconds
    arrivals = PrefillLoad(4, 0.0, 12.0, 1024, 30.0).arrivals(3)
    ended = Ended()
    simulate(system(1, 2, "decode"), (Arrival(a.at, a.task, a.prompt, 128) for a in arrivals), ended)
    found = sorted(request.first - request.arrival.at for request in ended.requests)
    assert found == pytest.approx(list(waits), rel=1e-9)


def test_simulation_of_equal_seed_is_equal() -> None:
    runs = []
    for _ in range(2):
        ended = Ended()
        simulate(system(2, 3, "prefill", "decode"), load(20.0, 20.0), ended, seed=7)
        runs.append([(r.number, r.first, r.ended, r.failure) for r in ended.requests])
    assert runs[0] == runs[1]
    assert len(runs[0]) > 300


def test_shared_decode_worker_serves_what_isolated_ones_do_with_more_steps() -> None:
    shared, isolated = (Outcome(Objectives()) for _ in range(2))
    simulate(system(1, 1, "decode"), load(8.0, 60.0), shared)
    simulate(system(1, 1), load(8.0, 60.0), isolated)
    assert shared.tokens == isolated.tokens
    assert shared.tpot.mean > isolated.tpot.mean


def test_router_with_a_cap_queues_requests_and_turns_the_late_ones_away() -> None:
    outcome = Outcome(Objectives(time_to_first_token=1.0))
    limits = Admission(max_requests=2, queue_size=3, queue_timeout=2.0)
    simulator = Simulator(system(1, 1, "decode", admission=limits), outcome)
    simulator.run(Arrival(0.001 * i, i % 2, 100, 200) for i in range(12))
    assert simulator.in_flight == simulator.waiting == 0
    # two are served, three of each task wait, and four find the queue full
    assert outcome.causes == {Cause.QUEUE: 10}
    assert outcome.ttft.count < 8


def test_request_longer_than_the_kv_of_a_worker_is_refused_and_the_others_are_served() -> None:
    ended = Ended()
    simulate(system(1, 1), [Arrival(0.0, 0, COSTS.kv_tokens, 4), Arrival(0.1, 0, 10, 4)], ended)
    assert [request.failure for request in ended.requests] == ["length", ""]


def test_worker_that_leaves_the_pool_ends_its_answers_and_gets_no_others() -> None:
    simulator = Simulator(system(1, 3, "decode", tasks=1), ended := Ended())
    pool = simulator.decodes["decode-shared"]
    simulator.set_serving("decode-shared", pool[:2])

    def leave(now: float) -> None:
        simulator.set_serving("decode-shared", pool[:1])

    def come_back(now: float) -> None:
        simulator.set_serving("decode-shared", [pool[0], pool[2]])

    simulator.call_at(2.0, leave)
    simulator.call_at(4.0, come_back)
    simulator.run(Arrival(0.1 * i, 0, 100, 100) for i in range(60))
    by_second = [
        {r.decode for r in ended.requests if begin <= r.arrival.at < begin + 2.0 - 0.01} for begin in (0.05, 2.05, 4.05)
    ]
    assert by_second == [set(pool[:2]), {pool[0]}, {pool[0], pool[2]}]
    assert len(ended.requests) == 60
