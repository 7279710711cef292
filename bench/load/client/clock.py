"""The clock of a run: seconds since its start."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the start of a run, and a way to wait for a time. Tests use one that they move by hand."""

    def now(self) -> float:
        """Return the seconds since the start."""

    async def sleep_until(self, when: float) -> None:
        """Return at a time, and let other tasks run also where it has passed."""


class RunClock:
    """The monotonic clock of this machine, from the moment it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._start

    async def sleep_until(self, when: float) -> None:
        """Return at a time, and let other tasks run also where it has passed."""
        await asyncio.sleep(max(0.0, when - self.now()))
