"""The loops that run in the background as long as the router does."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from sun_sglang.router.observability.log import Log


class Loop(Protocol):
    """A background loop."""

    async def run(self) -> None:
        """Run until cancelled."""


class BackgroundLoops:
    """Runs loops and reports the first that fails.

    Attributes:
        failed: set when a loop raised an exception: without it the router would decide from outdated state.
        tasks: the running loops, in the order in which they were started.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.failed = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, loops: Iterable[Loop]) -> None:
        """Start loops."""
        self.tasks.extend(asyncio.create_task(self._run(loop)) for loop in loops)

    async def stop(self) -> None:
        """Cancel all loops and wait for their end."""
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self, loop: Loop) -> None:
        try:
            await loop.run()
        except Exception as e:
            self._log.event("defect", path="", trace="".join(traceback.format_exception(e)))
            self.failed.set()
