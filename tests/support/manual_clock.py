"""A clock of a benchmark's run that a test moves by hand."""

from __future__ import annotations

import asyncio


class ManualClock:
    """Time stands still until `advance`; then those who wait continue in the order of their times."""

    def __init__(self) -> None:
        self.time = 0.0
        self._waiting: list[tuple[float, int, asyncio.Event]] = []
        self._count = 0

    def now(self) -> float:
        return self.time

    async def sleep_until(self, when: float) -> None:
        if when <= self.time:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        self._count += 1
        self._waiting.append((when, self._count, woken))
        await woken.wait()

    async def advance(self, to: float) -> None:
        """Move to a time; each waiter runs, at its own time, until it waits again."""
        await settle()
        while due := sorted(entry[:2] for entry in self._waiting if entry[0] <= to):
            first = next(entry for entry in self._waiting if entry[:2] == due[0])
            self._waiting.remove(first)
            self.time = max(self.time, first[0])
            first[2].set()
            await settle()
        self.time = to
        await settle()


async def settle() -> None:
    """Let every task run that can: nothing here waits for a socket."""
    for _ in range(20):
        await asyncio.sleep(0)
