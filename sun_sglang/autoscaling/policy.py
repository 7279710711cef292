"""The policy of a decode pool that sizes itself. Pure: a state machine without a clock.

1. The demand at arrival, over a window, gives the workers that are needed now (`sizing.py`).
2. More workers than there are: workers that drain are taken back first, and the others are started at once.
3. Fewer: the pool shrinks to the largest need of the last `hold` seconds, since a worker that is stopped too early
   costs a boot. The emptiest workers drain, and those that still start go first. `hold` is at least the age of the
   oldest start, so that no start is given up because a boot takes longer than expected.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from sun_sglang.autoscaling.demand import Demand, DemandWindow
from sun_sglang.autoscaling.sizing import Need, Target, step_seconds, workers_needed
from sun_sglang.autoscaling.step_cost import StepCost

# mean boots for which a need is remembered
_HOLD_BOOTS = 3.0
# seconds; a start that takes longer will not end, and holds the size no more
_LONGEST_START = 1800.0
# weight of the newest boot in the mean
_NEWEST_BOOT = 0.5


class MemberState(StrEnum):
    """The state of a worker, as the policy sees it.

    Attributes:
        SERVING: it takes requests.
        STARTING: it was started and does not serve yet, or comes back after its end.
        DRAINING: the policy takes it out of the rotation; it can be taken back at once.
        STOPPED: it does not run, and can be started.
        AWAY: it runs, and somebody else has taken it out of the rotation or restarts it.
    """

    SERVING = "serving"
    STARTING = "starting"
    DRAINING = "draining"
    STOPPED = "stopped"
    AWAY = "away"


class Member(NamedTuple):
    """One worker of the pool.

    Attributes:
        name: its name.
        state: its state.
        tokens: outstanding tokens on it.
    """

    name: str
    state: MemberState
    tokens: int = 0


class Bounds(NamedTuple):
    """The settings of the policy.

    Attributes:
        least: fewest workers.
        most: most workers.
        target: what its answers should keep.
        window: seconds over which the demand is averaged.
        hold: seconds for which a need is remembered before the pool shrinks; None for three times
            the mean boot time.
        boot: seconds of a boot before one was measured.
        retry: seconds between a start that the place refused and the next one.
    """

    least: int
    most: int
    target: Target
    window: float = 30.0
    hold: float | None = None
    boot: float = 60.0
    retry: float = 30.0


class Decision(NamedTuple):
    """What is to change now.

    Attributes:
        workers: the number of workers that the pool is to have.
        need: the workers that the demand needs, unbounded; None while the demand or the costs are not known.
        resume: draining workers to take back.
        start: stopped workers to start.
        drain: workers to drain, and to stop once they are empty.
        reason: why, in one line.
    """

    workers: int
    need: Need | None
    resume: tuple[str, ...]
    start: tuple[str, ...]
    drain: tuple[str, ...]
    reason: str

    @property
    def changes(self) -> bool:
        """Whether anything is to change."""
        return bool(self.resume or self.start or self.drain)


class Autoscaler:
    """The sizing of one pool.

    Args:
        bounds: the settings.

    Attributes:
        bounds: as given.
    """

    def __init__(self, bounds: Bounds) -> None:
        assert 1 <= bounds.least <= bounds.most
        self.bounds = bounds
        self._demand = DemandWindow(bounds.window)
        self._boot = bounds.boot
        self._boots = 0
        self._needs: deque[tuple[float, int]] = deque()
        self._no_start_until = -math.inf
        self._starting: dict[str, float] = {}

    @property
    def hold(self) -> float:
        """Seconds for which a need is remembered, while no start takes longer."""
        return _HOLD_BOOTS * self._boot if self.bounds.hold is None else self.bounds.hold

    @property
    def boot(self) -> float:
        """Expected seconds from a start until the worker serves."""
        return self._boot

    def note_demand(self, now: float, total: Demand) -> None:
        """Note the total demand since some beginning."""
        self._demand.note(now, total)

    def note_boot(self, seconds: float) -> None:
        """Note the time from a decision to start a worker until it served."""
        self._boot = seconds if not self._boots else self._boot + _NEWEST_BOOT * (seconds - self._boot)
        self._boots += 1

    def note_refused_start(self, now: float) -> None:
        """Note that a start was refused: the place has no room."""
        self._no_start_until = now + self.bounds.retry

    def decide(self, now: float, members: Sequence[Member], cost: StepCost | None) -> Decision:
        """Return what is to change.

        Args:
            now: clock seconds.
            members: the pool's workers, in the order in which they are started.
            cost: of a decode step; None while it is not known, and then the pool keeps its size within its bounds.
        """
        active = [m for m in members if m.state in (MemberState.SERVING, MemberState.STARTING)]
        starting = {m.name: self._starting.get(m.name, now) for m in active if m.state is MemberState.STARTING}
        self._starting = starting
        rate = self._demand.rate(self.bounds.window)
        need = None if rate is None or cost is None else workers_needed(rate, cost, self.bounds.target)
        wanted = self._wanted(now, need, len(active))
        reason = self._reason(rate, need, cost, wanted, len(active))
        if wanted > len(active):
            return self._grow(now, members, wanted, need, wanted - len(active), reason)
        return Decision(wanted, need, (), (), _emptiest(active, len(active) - wanted), reason)

    def _wanted(self, now: float, need: Need | None, active: int) -> int:
        """Return the number of workers: the largest need within `hold`, within the bounds."""
        bounds = self.bounds
        least, most = bounds.least, bounds.most
        if need is not None:
            wanted = most if need.workers >= most else max(least, math.ceil(need.workers))
            while self._needs and self._needs[-1][1] <= wanted:
                self._needs.pop()
            self._needs.append((now, wanted))
        oldest = max(now - _LONGEST_START, min((now - self.hold, *self._starting.values())))
        while self._needs and self._needs[0][0] < oldest:
            self._needs.popleft()
        return self._needs[0][1] if self._needs else min(most, max(least, active))

    def _grow(
        self, now: float, members: Sequence[Member], wanted: int, need: Need | None, missing: int, reason: str
    ) -> Decision:
        # the fullest of the draining ones has the most to lose from a move
        draining = sorted((m for m in members if m.state is MemberState.DRAINING), key=lambda m: -m.tokens)
        resume = tuple(m.name for m in draining[:missing])
        stopped = [m.name for m in members if m.state is MemberState.STOPPED]
        missing -= len(resume)
        if now < self._no_start_until and missing:
            stopped, reason = [], f"{reason}; the place refused the last start"
        return Decision(wanted, need, resume, tuple(stopped[:missing]), (), reason)

    def _reason(self, rate: Demand | None, need: Need | None, cost: StepCost | None, wanted: int, active: int) -> str:
        bounds = self.bounds
        if cost is None:
            return "the cost of a decode step is not known yet"
        if rate is None or need is None:
            return "no demand is measured yet"
        if not rate.answers:
            return f"no work is offered; bound by min {bounds.least}" if wanted == bounds.least else self._held(wanted)
        offered = f"offered {rate.tokens:.0f} tokens/s at a mean context of {rate.mean_context:.0f}"
        target = bounds.target
        kept = f"{1000 * target.tpot:g} ms a token in {target.share:.0%} of the steps"
        text = f"{offered}: {need.workers:.2f} workers for {'KV memory' if need.memory > need.steps else kept}"
        now = math.ceil(need.workers) if math.isfinite(need.workers) else math.inf
        if now > bounds.most:
            step = step_seconds(rate, cost, bounds.most)
            expect = f"{1000 * step:.0f} ms a token" if math.isfinite(step) else "a growing queue"
            return f"{text}; bound by max {bounds.most}: expect {expect}"
        if wanted > max(now, bounds.least):
            return f"{text}; {self._held(wanted)}"
        if wanted == bounds.least and now < bounds.least:
            return f"{text}; bound by min {bounds.least}"
        return text

    def _held(self, wanted: int) -> str:
        return f"{wanted} were needed within {self.hold:.0f} s"


def _emptiest(active: Sequence[Member], count: int) -> tuple[str, ...]:
    """Return the workers to drain; of equally empty ones those that start first, and the last in order."""
    order = sorted(enumerate(active), key=lambda one: (one[1].state is MemberState.SERVING, one[1].tokens, -one[0]))
    return tuple(member.name for _, member in order[:count])
