"""A decode pool that sizes itself, in virtual time: carries out the decisions of a policy, and counts GPU time.

The policy is that of a deployment (`autoscaling/policy.py`), or another one for a comparison. As in a deployment the
demand is estimated at arrival from the lengths of earlier answers of the task. A draining worker's answers end where
they are; a deployment moves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.autoscaling.policy import Autoscaler, Decision, Member, MemberState
from sun_sglang.autoscaling.step_cost import StepCost
from sun_sglang.plan.simulator import Recorder, Request, Simulator
from sun_sglang.plan.system import System
from sun_sglang.plan.traffic import Arrival
from sun_sglang.plan.workers import DecodeWorker
from sun_sglang.router.scheduling.cost import Cost, OutputLengths

TICK: Final = 1.0
"""Seconds between two decisions."""


class Offered(NamedTuple):
    """What is known of the load at a decision.

    Attributes:
        now: clock seconds.
        total: the demand since the start.
    """

    now: float
    total: Demand


class SizingPolicy(Protocol):
    """Decides the number of workers."""

    def decide(self, offered: Offered, members: Sequence[Member], workers: Sequence[DecodeWorker]) -> Decision:
        """Return what is to change.

        Args:
            offered: the load.
            members: the pool, in the order in which workers are started.
            workers: the workers that serve.
        """

    def note_boot(self, seconds: float) -> None:
        """Note that a worker serves, so many seconds after its start."""


class OfferedLoadPolicy:
    """The policy of a deployment.

    Args:
        autoscaler: the policy.
        cost: of a decode step.
    """

    def __init__(self, autoscaler: Autoscaler, cost: StepCost) -> None:
        self._autoscaler = autoscaler
        self._cost = cost

    def decide(self, offered: Offered, members: Sequence[Member], workers: Sequence[DecodeWorker]) -> Decision:
        """See `SizingPolicy`."""
        self._autoscaler.note_demand(*offered)
        return self._autoscaler.decide(offered.now, members, self._cost)

    def note_boot(self, seconds: float) -> None:
        """See `SizingPolicy`."""
        self._autoscaler.note_boot(seconds)


@dataclass(eq=False)
class _Slot:
    """One worker of the pool.

    Attributes:
        worker: the worker.
        state: its state.
        begun: clock seconds of its last start.
    """

    worker: DecodeWorker
    state: MemberState
    begun: float = 0.0


@dataclass(frozen=True)
class PoolTime:
    """The time of the workers of a pool.

    Attributes:
        gpu_hours: of all workers that ran, those that started or drained included.
        least: fewest workers that ran at once.
        most: most of them.
        starts: starts of workers.
    """

    gpu_hours: float
    least: int
    most: int
    starts: int


class AutoscaledPool:
    """One decode pool of a simulator, which a policy sizes.

    Args:
        simulator: the simulator; the pool has as many workers as it may ever have.
        system: its system.
        pool: name of the pool.
        policy: the policy.
        boot: seconds from the start of a worker until it serves.
        initial: workers that serve at the start.
        limit: the limit of output tokens that clients set, at most; the policy does not know how long answers are.
    """

    def __init__(
        self,
        simulator: Simulator,
        system: System,
        pool: str,
        policy: SizingPolicy,
        *,
        boot: float,
        initial: int,
        limit: int = 2048,
    ) -> None:
        self._simulator = simulator
        self._system = system
        self._pool = pool
        self._policy = policy
        self._boot = boot
        self._limit = limit
        states = [MemberState.SERVING] * initial
        workers = simulator.decodes[pool]
        states += [MemberState.STOPPED] * (len(workers) - initial)
        self._slots = [_Slot(worker, state) for worker, state in zip(workers, states, strict=True)]
        self._by_name = {slot.worker.known.name: slot for slot in self._slots}
        self._lengths = OutputLengths()
        self._total = Demand()
        self._running: list[int] = []
        self._starts = 0
        self._set_serving()

    @property
    def time(self) -> PoolTime:
        """The workers' time so far."""
        gpus = self._system.pools[self._pool].gpus
        hours = sum(self._running) * TICK * gpus / 3600
        return PoolTime(hours, min(self._running), max(self._running), self._starts)

    def arrive(self, arrival: Arrival) -> None:
        """Count the demand of a request that arrives."""
        task = self._system.tasks[arrival.task]
        if task.decode == self._pool:
            cost = Cost(arrival.prompt, arrival.prompt + self._limit)
            self._total = self._total.plus(self._lengths.demand(task.name, cost))

    def end(self, request: Request) -> None:
        """Learn the length of an answer."""
        if not request.failure:
            self._lengths.record(self._system.tasks[request.arrival.task].name, request.arrival.answer)

    def tick(self, now: float) -> None:
        """Decide, and carry the decision out."""
        for slot in self._slots:
            if slot.state is MemberState.DRAINING and not slot.worker.known.load.requests:
                slot.state = MemberState.STOPPED
        self._running.append(sum(slot.state is not MemberState.STOPPED for slot in self._slots))
        members = [Member(s.worker.known.name, s.state, s.worker.known.load.tokens) for s in self._slots]
        serving = [slot.worker for slot in self._slots if slot.state is MemberState.SERVING]
        decision = self._policy.decide(Offered(now, self._total), members, serving)
        for name in decision.resume:
            self._by_name[name].state = MemberState.SERVING
        for name in decision.start:
            self._start(self._by_name[name], now)
        for name in decision.drain:
            slot = self._by_name[name]
            starts = slot.state is MemberState.STARTING
            slot.state = MemberState.STOPPED if starts else MemberState.DRAINING
        if decision.resume or decision.drain:
            self._set_serving()

    def _start(self, slot: _Slot, now: float) -> None:
        slot.state, slot.begun = MemberState.STARTING, now
        self._starts += 1

        def booted(time: float) -> None:
            # the start may have been given up, and begun again, meanwhile
            if slot.state is MemberState.STARTING and slot.begun == now:
                slot.state = MemberState.SERVING
                self._policy.note_boot(time - now)
                self._set_serving()

        self._simulator.call_at(now + self._boot, booted)

    def _set_serving(self) -> None:
        serving = [slot.worker for slot in self._slots if slot.state is MemberState.SERVING]
        self._simulator.set_serving(self._pool, serving)


def play_autoscaled(
    system: System,
    arrivals: Iterable[Arrival],
    recorder: Recorder,
    policy: SizingPolicy,
    *,
    boot: float,
    initial: int,
    seconds: float,
    seed: int = 0,
) -> PoolTime:
    """Play a load against a system whose one decode pool sizes itself, and return the pool's time.

    Args:
        system: the system; its decode pool has as many workers as it may have at most.
        arrivals: the requests in the order of time.
        recorder: receives the requests.
        policy: sizes the pool.
        boot: seconds of a boot.
        initial: workers that serve at the start.
        seconds: length of the load; the pool's time counts until then.
        seed: of the router's random choices.
    """
    (pool,) = system.names("decode")
    both = _Both(recorder)
    simulator = Simulator(system, both, seed=seed)
    both.pool = sized = AutoscaledPool(simulator, system, pool, policy, boot=boot, initial=initial)

    def tick(now: float) -> None:
        sized.tick(now)
        if now + TICK <= seconds:
            simulator.call_at(now + TICK, tick)

    simulator.call_at(TICK, tick)
    simulator.run(_offered(arrivals, sized))
    return sized.time


def _offered(arrivals: Iterable[Arrival], pool: AutoscaledPool) -> Iterator[Arrival]:
    # one request ahead of the clock: the next one is read when the last one has been sent
    for arrival in arrivals:
        yield arrival
        pool.arrive(arrival)


class _Both:
    """Passes requests to the recorder, and to the pool, which learns their lengths."""

    def __init__(self, recorder: Recorder) -> None:
        self.pool: AutoscaledPool | None = None
        self._recorder = recorder

    def note(self, request: Request) -> None:
        """See `Recorder`."""
        if self.pool is not None:
            self.pool.end(request)
        self._recorder.note(request)
