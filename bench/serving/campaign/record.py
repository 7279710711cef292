"""What a benchmark has measured so far, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sun_sglang.bench.load.metrics.summary import Workers
from sun_sglang.bench.provenance import git_revision, installed_versions, this_machine
from sun_sglang.bench.serving.campaign.grid import Point
from sun_sglang.bench.serving.comparison import ratios_of, summarise_repetitions
from sun_sglang.bench.serving.result import (
    BenchResult,
    PlanReport,
    PointReport,
    SearchReport,
    SystemPoint,
    SystemReport,
)
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.settings import BenchSettings

_PACKAGES = ("sun-sglang", "sglang", "torch", "aiohttp", "uvloop")


class Record:
    """What a benchmark has measured so far.

    Args:
        command: the command line.
        settings: the settings of the benchmark.
        systems: what is measured.
        points: the points of the grid, each with its plan.
        save: called after each change with the result.
    """

    def __init__(
        self,
        command: str,
        settings: BenchSettings,
        systems: Iterable[SystemReport],
        points: Sequence[tuple[Point, PlanReport]],
        save: Callable[[BenchResult], None] = lambda _: None,
    ) -> None:
        self._systems = {system.name: system for system in systems}
        self._plans = [plan for _, plan in points]
        self._points = [
            PointReport(values=dict(point.values), plan=plan, systems={name: SystemPoint() for name in self._systems})
            for point, plan in points
        ]
        self._head = BenchResult(
            command=command,
            settings=settings,
            machine=this_machine(),
            versions=installed_versions(_PACKAGES),
            revision=git_revision(),
            systems=tuple(self._systems.values()),
            points=tuple(self._points),
        )
        self._notes: list[str] = []
        self._save = save

    @property
    def result(self) -> BenchResult:
        """The result so far."""
        return self._head.model_copy(
            update={
                "notes": tuple(self._notes),
                "systems": tuple(self._systems.values()),
                "points": tuple(self._points),
            }
        )

    def has(self, point: int, system: str, repetition: int) -> bool:
        """Return whether a repetition of a system at a point was measured."""
        found = self._points[point].systems[system]
        measured = {run.repetition for run in found.runs} | {search.repetition for search in found.searches}
        return repetition in measured

    def add(self, point: int, system: str, measured: RunReport | SearchReport) -> None:
        """Add a run, or a search, and save the result."""
        found = self._points[point].systems[system]
        if isinstance(measured, SearchReport):
            self._put(point, system, found.runs, (*found.searches, measured))
        else:
            self._put(point, system, (*found.runs, measured), found.searches)
        self._save(self.result)

    def fail(self, system: str, error: str) -> None:
        """Note why a system cannot be measured, and save the result."""
        self._systems[system] = self._systems[system].model_copy(update={"error": error})
        self._save(self.result)

    def note_workers(self, system: str, workers: Workers | None) -> None:
        """Note how many workers serve the tasks of a system."""
        if workers is not None:
            changes = {"workers": workers.total, "decode_workers": workers.decode}
            self._systems[system] = self._systems[system].model_copy(update=changes)

    def note(self, text: str) -> None:
        """Add a note for the readers of the whole result."""
        if text not in self._notes:
            self._notes.append(text)

    def take_over(self, earlier: BenchResult, *, keep: Callable[[RunReport], bool]) -> None:
        """Take over the runs and searches of an earlier result of the same benchmark.

        Args:
            earlier: the result.
            keep: returns whether a run counts as measured.
        """
        for number, point in enumerate(earlier.points):
            for name, found in point.systems.items():
                searches = tuple(search for search in found.searches if search.complete)
                self._put(number, name, tuple(filter(keep, found.runs)), searches)
        for system in earlier.systems:
            if system.workers is not None and system.decode_workers is not None:
                self.note_workers(system.name, Workers(system.workers, system.decode_workers))
        for text in earlier.notes:
            self.note(text)

    def _put(self, point: int, system: str, runs: tuple[RunReport, ...], searches: tuple[SearchReport, ...]) -> None:
        runs = tuple(sorted(runs, key=lambda run: run.repetition))
        searches = tuple(sorted(searches, key=lambda search: search.repetition))
        summary = summarise_repetitions(runs, searches)
        old = self._points[point]
        systems = old.systems | {system: SystemPoint(runs=runs, searches=searches, summary=summary)}
        first, *others = systems
        ratios = {name: ratios_of(systems[first], systems[name]) for name in others}
        self._points[point] = old.model_copy(update={"systems": systems, "ratios": ratios})
