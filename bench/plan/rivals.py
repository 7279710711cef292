"""Other policies that size a decode pool, as their documentation describes them, simplified. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.autoscaling.policy import Decision, Member, MemberState
from sun_sglang.autoscaling.sizing import Target, workers_needed
from sun_sglang.autoscaling.step_cost import StepCost
from sun_sglang.plan.autoscale import Offered
from sun_sglang.plan.workers import DecodeWorker


class Static:
    """Changes nothing."""

    def decide(self, offered: Offered, members: Sequence[Member], workers: Sequence[DecodeWorker]) -> Decision:
        """See `SizingPolicy`."""
        return resized(len(workers), members)

    def note_boot(self, seconds: float) -> None:
        """See `SizingPolicy`."""


class HorizontalPodAutoscaler:
    """Kubernetes' HPA on the requests of a worker, with its defaults: every 15 s, 10 % tolerance, 300 s stabilization.

    Args:
        least: fewest workers.
        most: most workers.
        target: requests that a worker should have.
    """

    PERIOD: Final = 15.0
    TOLERANCE: Final = 0.1
    STABILIZATION: Final = 300.0

    def __init__(self, least: int, most: int, target: float) -> None:
        self._least = least
        self._most = most
        self._target = target
        self._next = 0.0
        self._wanted: deque[tuple[float, int]] = deque()

    def decide(self, offered: Offered, members: Sequence[Member], workers: Sequence[DecodeWorker]) -> Decision:
        """See `SizingPolicy`."""
        now, active = offered.now, sum(_is_active(member) for member in members)
        if now < self._next:
            return resized(active, members)
        self._next = now + self.PERIOD
        # pods that are not ready are left out of the mean, and count as if they had no load where more are wanted
        ratio = sum(worker.known.load.requests for worker in workers) / len(workers) / self._target
        wanted = active
        if abs(ratio - 1) > self.TOLERANCE:
            wanted = math.ceil(len(workers) * ratio)
            if ratio > 1:
                wanted = max(active, wanted)
        wanted = min(self._most, max(self._least, wanted))
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - self.STABILIZATION:
            self._wanted.popleft()
        # up at once, down to the largest recommendation of the last minutes
        largest = max(count for _, count in self._wanted)
        return resized(wanted if wanted >= active else min(active, largest), members)

    def note_boot(self, seconds: float) -> None:
        """See `SizingPolicy`."""


class ThroughputPlanner:
    """A planner as Dynamo's: each interval, the last interval's load over the throughput of a worker at the SLO.

    Its predictor is the constant one; its correction by measured latencies is left out.

    Args:
        least: fewest workers.
        most: most workers.
        tpot: the SLO, in seconds.
        cost: of a decode step, which its profile of the engine would give.
        interval: seconds between two decisions.
    """

    def __init__(self, least: int, most: int, tpot: float, cost: StepCost, interval: float = 60.0) -> None:
        self._least = least
        self._most = most
        self._tpot = tpot
        self._cost = cost
        self._interval = interval
        self._next = interval
        self._before = Demand()

    def decide(self, offered: Offered, members: Sequence[Member], workers: Sequence[DecodeWorker]) -> Decision:
        """See `SizingPolicy`."""
        active = sum(_is_active(member) for member in members)
        if offered.now < self._next:
            return resized(active, members)
        rate = offered.total.minus(self._before).times(1 / self._interval)
        self._before, self._next = offered.total, offered.now + self._interval
        need = workers_needed(rate, self._cost, Target(self._tpot, 0.5, 1.0)).workers
        return resized(min(self._most, max(self._least, math.ceil(need))), members)

    def note_boot(self, seconds: float) -> None:
        """See `SizingPolicy`."""


def resized(wanted: int, members: Sequence[Member]) -> Decision:
    """Return the decision that gives a pool so many workers; the emptiest ones drain."""
    active = [member for member in members if _is_active(member)]
    more = wanted - len(active)
    if more > 0:
        resume = [member.name for member in members if member.state is MemberState.DRAINING][:more]
        start = [member.name for member in members if member.state is MemberState.STOPPED][: more - len(resume)]
        return Decision(wanted, None, tuple(resume), tuple(start), (), "")
    order = sorted(active, key=lambda member: (member.state is MemberState.SERVING, member.tokens))
    return Decision(wanted, None, (), (), tuple(member.name for member in order[:-more] if more), "")


def _is_active(member: Member) -> bool:
    return member.state in (MemberState.SERVING, MemberState.STARTING)
