"""The client's own load: whether this process kept up, so that its times are the server's."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable

from sun_sglang.bench.load.client.clock import Clock

_INTERVAL = 0.05


class LoadMonitor:
    """Samples how late this process is, and how much CPU it takes.

    A sample of lateness is the time between the moment at which something was due and the moment at which this process
    did it: a timer of the event loop, or the sending of a request.

    Args:
        clock: the clock of the run.
        cpu_seconds: the CPU time of this process so far, in seconds.
    """

    def __init__(self, clock: Clock, cpu_seconds: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._late_at = array("d")
        self._late_by = array("d")
        self._cpu_at = array("d")
        self._cpu = array("d")

    def note(self, due: float, done: float) -> None:
        """Record that what was due at one time was done at another; times come in order."""
        self._late_at.append(done)
        self._late_by.append(done - due)

    async def watch(self) -> None:
        """Record the lateness of a timer and the CPU time, 20 times a second, until cancelled."""
        while True:
            due = self._clock.now() + _INTERVAL
            await self._clock.sleep_until(due)
            now = self._clock.now()
            self.note(due, now)
            self._cpu_at.append(now)
            self._cpu.append(self._cpu_seconds())

    def lateness(self, start: float, end: float) -> list[float]:
        """Return the samples of lateness between two times, in seconds."""
        return list(self._late_by[bisect_left(self._late_at, start) : bisect_right(self._late_at, end)])

    def cpu_share(self, start: float, end: float) -> float | None:
        """Return the CPU time between two times as a share of one core; None with fewer than two samples."""
        first, last = bisect_left(self._cpu_at, start), bisect_right(self._cpu_at, end) - 1
        if last <= first:
            return None
        return (self._cpu[last] - self._cpu[first]) / (self._cpu_at[last] - self._cpu_at[first])
