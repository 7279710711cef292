"""The changes of workers that are under way: boots, drains, ends, and returns into the rotation. State; no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sun_sglang.contracts.tasks_report import WorkerReport
from sun_sglang.launch.state import Phase, ProcessState

# ends of a worker, one after the other and each before it served, after which it is given up
_MOST_EARLY_ENDS = 3
# seconds until every process of the router shows a change
_SHOWN_WITHIN = 10.0


@dataclass
class _Boot:
    """A worker that was started.

    Attributes:
        since: clock time of the decision.
        shown_by: clock time by which the router's report has it; infinite until it was added there.
    """

    since: float
    shown_by: float = math.inf


class Booted(NamedTuple):
    """A worker serves, `seconds` after the decision to start it."""

    worker: str
    seconds: float


class Failed(NamedTuple):
    """A worker was started and will not serve."""

    worker: str
    why: str


class Transitions:
    """The changes under way in one pool.

    Attributes:
        draining: workers that are taken out of the rotation, each with the clock time by which the router's report
            shows it; infinite until the router was told.
        leaving: workers that were drained, and whose processes end.
    """

    def __init__(self) -> None:
        self.draining: dict[str, float] = {}
        self.leaving: set[str] = set()
        self._booting: dict[str, _Boot] = {}
        self._resuming: dict[str, float] = {}

    @property
    def starting(self) -> set[str]:
        """Workers that start, or come back into the rotation."""
        return {*self._booting, *self._resuming}

    def may_drain(self, name: str) -> bool:
        """Return whether a worker is at the router, so that it can be drained there."""
        return name not in self._booting or self._booting[name].shown_by != math.inf

    def start(self, name: str, now: float) -> None:
        """Note the decision to start a worker."""
        self._booting[name] = _Boot(now)

    def note_started(self, name: str, now: float) -> None:
        """Note that a worker was added to the router, and its process is kept running."""
        self._booting[name].shown_by = now + _SHOWN_WITHIN

    def drain(self, name: str) -> None:
        """Note the decision to drain a worker."""
        self._booting.pop(name, None)
        self._resuming.pop(name, None)
        self.draining[name] = math.inf

    def note_drained(self, name: str, now: float) -> None:
        """Note that the router was told to drain a worker."""
        if name in self.draining:
            self.draining[name] = now + _SHOWN_WITHIN

    def resume(self, name: str, now: float) -> None:
        """Note the decision to take a draining worker back."""
        del self.draining[name]
        self._resuming[name] = now + _SHOWN_WITHIN

    def leave(self, name: str) -> None:
        """Note the decision to stop a worker."""
        self._booting.pop(name, None)
        self.draining.pop(name, None)
        self.leaving.add(name)

    def forget(self, name: str) -> None:
        """Forget what was begun with a worker: it failed."""
        for begun in (self._booting, self._resuming, self.draining):
            begun.pop(name, None)
        self.leaving.discard(name)

    def empty(self, workers: Mapping[str, WorkerReport]) -> list[str]:
        """Return the draining workers that have no request left, in any process of the router."""
        found = ((name, workers.get(name)) for name in self.draining)
        # a worker that the router does not report was removed, or never registered
        return [n for n, w in found if w is None or (w.state != "ready" and w.agreed and not w.in_flight)]

    def note(
        self, now: float, processes: Mapping[str, ProcessState], workers: Mapping[str, WorkerReport]
    ) -> list[Booted | Failed]:
        """Note what a report shows, forget what somebody else has undone, and return the boots that have ended.

        Args:
            now: clock seconds.
            processes: the launcher's workers by name.
            workers: the router's workers by name.
        """
        for name, until in list(self._resuming.items()):
            if now > until or name not in workers or workers[name].state != "draining":
                del self._resuming[name]
        for name, until in list(self.draining.items()):
            if now > until and name in workers and workers[name].state == "ready":
                del self.draining[name]
        return [
            end
            for name, boot in list(self._booting.items())
            if boot.shown_by != math.inf and (end := self._end(name, boot, now, processes.get(name), workers.get(name)))
        ]

    def _end(
        self, name: str, boot: _Boot, now: float, process: ProcessState | None, worker: WorkerReport | None
    ) -> Booted | Failed | None:
        end: Booted | Failed | None = None
        if worker is not None and worker.state == "ready" and worker.agreed:
            end = Booted(name, now - boot.since)
        elif process is not None and (process.phase == Phase.FAILED or process.restarts >= _MOST_EARLY_ENDS):
            end = Failed(name, f"{name} does not start: {process.detail}; its log is {process.log}")
        elif worker is not None and worker.state == "refused":
            end = Failed(name, f"the router refuses {name}: {worker.reason}")
        # else somebody may have taken it out of the rotation
        if end is not None or (now > boot.shown_by and (worker is None or worker.state == "draining")):
            del self._booting[name]
        return end
