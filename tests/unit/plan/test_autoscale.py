"""A decode pool that sizes itself in virtual time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.autoscaling.policy import Autoscaler, Bounds, Decision, Member, MemberState
from sun_sglang.autoscaling.sizing import Target
from sun_sglang.autoscaling.step_cost import step_cost
from sun_sglang.bench.plan.rivals import HorizontalPodAutoscaler, resized
from sun_sglang.plan.autoscale import Offered, OfferedLoadPolicy, SizingPolicy, play_autoscaled
from sun_sglang.plan.outcome import Objectives, Outcome
from sun_sglang.plan.simulator import Simulator
from sun_sglang.plan.system import PlannedPool, System, arranged
from sun_sglang.plan.traffic import Arrival
from sun_sglang.plan.workers import DecodeWorker
from sun_sglang.sim.cost_model import CostModel

COSTS = CostModel(decode_step=0.0142, decode_per_context_token=1.39e-7, kv_tokens=400_000)
TPOT = 0.02


def system(most: int) -> System:
    pools = PlannedPool("prefill", 1, COSTS), PlannedPool("decode", most, COSTS, gpus=2)
    return arranged("sun", ["a", "b"], *pools, shares=frozenset({"decode"}))


def load(seconds: float, busy: tuple[float, float]) -> list[Arrival]:
    """Return requests at 4 a second, and at 30 a second in a time."""
    draw, now, arrivals = random.Random(0), 0.0, list[Arrival]()
    while (now := now + draw.expovariate(30.0 if busy[0] <= now < busy[1] else 4.0)) < seconds:
        arrivals.append(Arrival(now, draw.randrange(2), 800, 150))
    return arrivals


def test_pool_under_a_busy_time_grows_for_it_and_shrinks_after_it() -> None:
    arrivals, outcome = load(360.0, (100.0, 200.0)), Outcome(Objectives(inter_token_latency=TPOT))
    policy = OfferedLoadPolicy(Autoscaler(Bounds(1, 12, Target(TPOT), window=10.0)), step_cost(COSTS))
    time = play_autoscaled(system(12), arrivals, outcome, policy, boot=5.0, initial=1, seconds=360.0)
    assert outcome.all.requests == outcome.tpot.count == len(arrivals)
    assert time.least == 1
    assert 4 <= time.most <= 8
    # two GPUs each: one worker for the quiet time, and the others for the busy one and a little more
    assert 2 * 360 / 3600 < time.gpu_hours < 2 * (360 + (time.most - 1) * 200) / 3600
    alone = Outcome(Objectives(inter_token_latency=TPOT))
    Simulator(system(1), alone).run(arrivals)
    assert outcome.all.ratio > alone.all.ratio + 0.2


class Taken(NamedTuple):
    """A number of workers that a scripted policy wants from a time on."""

    at: float
    wanted: int


class Scripted:
    """Wants the last of some numbers of workers that is due."""

    def __init__(self, *taken: Taken) -> None:
        self.boots: list[float] = []
        self.seen: dict[float, list[str]] = {}
        self._taken = taken

    def decide(self, offered: Offered, members: Sequence[Member], workers: Sequence[DecodeWorker]) -> Decision:
        self.seen[offered.now] = [member.state.value for member in members]
        return resized([one.wanted for one in self._taken if one.at <= offered.now][-1], members)

    def note_boot(self, seconds: float) -> None:
        self.boots.append(seconds)


def play(policy: SizingPolicy, boot: float, answer: int) -> Outcome:
    outcome = Outcome(Objectives())
    arrivals = [Arrival(0.2 * i, 0, 100, answer) for i in range(100)]
    play_autoscaled(system(2), arrivals, outcome, policy, boot=boot, initial=1, seconds=20.0)
    assert outcome.all.requests == 100
    return outcome


def test_worker_that_is_wanted_again_while_it_drains_is_taken_back_without_a_boot() -> None:
    policy = Scripted(Taken(0, 2), Taken(8, 1), Taken(10, 2))
    play(policy, boot=3.0, answer=400)
    assert policy.seen[2.0] == ["serving", "starting"]
    assert policy.seen[5.0] == ["serving", "serving"]
    assert MemberState.DRAINING in policy.seen[9.0]
    assert policy.seen[11.0] == ["serving", "serving"]
    assert policy.boots == [3.0]


def test_start_that_is_given_up_and_begun_again_serves_after_its_own_boot() -> None:
    policy = Scripted(Taken(0, 2), Taken(3, 1), Taken(4, 2))
    play(policy, boot=5.0, answer=20)
    assert policy.seen[4.0] == ["serving", "stopped"]
    # the first start would have served from 6 s on
    assert policy.seen[8.0] == ["serving", "starting"]
    assert policy.seen[10.0] == ["serving", "serving"]
    assert policy.boots == [5.0]


def test_hpa_grows_at_once_and_shrinks_after_its_stabilization() -> None:
    members = [Member(f"w{i}", MemberState.SERVING) for i in range(2)]
    simulator = Simulator(system(2), Outcome(Objectives()))
    workers = simulator.decodes["decode-shared"]
    stopped = [Member(f"w{i}", MemberState.STOPPED) for i in range(2, 6)]
    for worker in workers:
        for _ in range(20):
            worker.known.load.acquire(1)
    hpa = HorizontalPodAutoscaler(1, 6, target=10.0)
    assert hpa.decide(Offered(0.0, Demand()), [*members, *stopped], workers).start == ("w2", "w3")
    for worker in workers:
        for _ in range(19):
            worker.known.load.release(1)
    four = [Member(f"w{i}", MemberState.SERVING) for i in range(4)]
    times = range(15, 330, 15)
    drains = [hpa.decide(Offered(float(now), Demand()), four, workers).drain for now in times]
    assert not any(drains[: 300 // 15])
    assert len(drains[-1]) == 3
