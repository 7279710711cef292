"""A serving system under measurement."""

from __future__ import annotations

from typing import Protocol

from sun_sglang.bench.serving.result import SystemReport
from sun_sglang.bench.serving.targets.target import Target


class System(Protocol):
    """A serving system under measurement. A campaign starts it, measures it, and stops it, perhaps several times."""

    @property
    def report(self) -> SystemReport:
        """Its name, kind and definition."""
        ...

    @property
    def starts(self) -> bool:
        """Whether `start` starts servers, whose caches are empty then."""
        ...

    async def start(self) -> Target:
        """Start it, and return where requests go. May be cancelled; `stop` follows in any case.

        Raises:
            SunError: it does not start.
        """
        ...

    async def stop(self) -> None:
        """Stop what `start` started, also where that failed or was cancelled."""


class RunningSystem:
    """A server that runs already, and goes on.

    Args:
        target: the server.
    """

    starts = False

    def __init__(self, target: Target) -> None:
        self._target = target
        self.report = SystemReport(name=target.name, kind=target.kind)

    async def start(self) -> Target:
        """Return the server."""
        return self._target

    async def stop(self) -> None:
        """Leave it running."""
