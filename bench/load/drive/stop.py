"""The end of a run before its window is over."""

from __future__ import annotations

import asyncio
from enum import StrEnum


class Ending(StrEnum):
    """How a run ended."""

    COMPLETE = "complete"
    """The window is over, or everything that was planned has been answered."""
    CUT_SHORT = "cut_short"
    """The user stopped the run; what was measured until then counts."""
    CLIENT_LATE = "client_late"
    """This process did not keep up, so its times are not the server's."""
    TARGET_FAILED = "target_failed"
    """Every request failed."""


class StopSignal:
    """Ends a run; the first reason counts.

    Attributes:
        ending: how the run ended; `COMPLETE` until it is stopped.
        reason: why it was stopped; empty until then.
    """

    def __init__(self) -> None:
        self.ending = Ending.COMPLETE
        self.reason = ""
        self._stopped = asyncio.Event()

    @property
    def is_set(self) -> bool:
        """Whether the run was stopped."""
        return self._stopped.is_set()

    def stop(self, ending: Ending, reason: str) -> None:
        """Stop the run, unless it is stopped already."""
        if not self.is_set:
            self.ending, self.reason = ending, reason
            self._stopped.set()

    async def wait(self) -> None:
        """Return when the run is stopped."""
        await self._stopped.wait()
