"""The user's wish to end a benchmark."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.errors import BenchError

_T = TypeVar("_T")


class InterruptedByUserError(BenchError):
    """The user ended the benchmark."""


class Interruption:
    """Ends the run that goes on, and everything after it."""

    def __init__(self) -> None:
        self._reason = ""
        self._stop = StopSignal()
        self._requested = asyncio.Event()

    @property
    def is_requested(self) -> bool:
        """Whether the user ended the benchmark."""
        return self._requested.is_set()

    def request(self, reason: str) -> None:
        """End the run that goes on, and everything after it."""
        self._reason = reason
        self._requested.set()
        self._stop.stop(Ending.CUT_SHORT, reason)

    def new_stop(self) -> StopSignal:
        """Return the stop signal of the next run."""
        self._stop = StopSignal()
        if self.is_requested:
            self._stop.stop(Ending.CUT_SHORT, self._reason)
        return self._stop

    async def unless_requested(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of a coroutine, which is cancelled if the user ends the benchmark meanwhile.

        Raises:
            InterruptedByUserError: the user ended the benchmark.
        """
        running, waiting = asyncio.ensure_future(coroutine), asyncio.ensure_future(self._requested.wait())
        try:
            await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
            if self.is_requested:
                raise InterruptedByUserError(self._reason)
            return running.result()
        finally:
            running.cancel()
            waiting.cancel()
            await asyncio.gather(running, waiting, return_exceptions=True)
