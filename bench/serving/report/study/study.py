"""Systems, points of load, and the numbers of each system at each point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sun_sglang.bench.load.metrics.interval import Interval
from sun_sglang.bench.load.metrics.repeated import Repeated
from sun_sglang.bench.serving.report.study.point import Point, distance_from_middle
from sun_sglang.bench.serving.result import BenchResult, PlanReport, SystemPoint, SystemReport
from sun_sglang.bench.serving.run_report import RunReport


@dataclass(frozen=True)
class System:
    """A serving system.

    Attributes:
        label: its name on the page; unique.
        number: its position, from 0; gives its colour.
        report: what the file says of it.
        source: position of its file.
    """

    label: str
    number: int
    report: SystemReport
    source: int


@dataclass(frozen=True)
class Source:
    """A file.

    Attributes:
        name: its name, without folders.
        result: its content.
    """

    name: str
    result: BenchResult


@dataclass(frozen=True)
class Measured:
    """What one system did at one point.

    Attributes:
        found: its runs and their summary.
        ratios: the numbers of the study's first system by those of this one, by metric; empty for the first system, and
            where it was not measured.
        plan: what was sent.
        source: position of its file.
    """

    found: SystemPoint
    ratios: Mapping[str, Interval]
    plan: PlanReport
    source: int

    def number(self, metric: str) -> Repeated | None:
        """Return a metric over the repetitions; None where no valid run has it, and where it is no finite number."""
        found = self.found.summary.get(metric)
        return found if found and _is_finite(found) else None

    def ratio(self, metric: str) -> Interval | None:
        """Return the first system's number by this one's, as `number` does."""
        found = self.ratios.get(metric)
        return found if found and _is_finite(found) else None

    @property
    def repetitions(self) -> int:
        """How often it was measured: valid runs, or whole searches."""
        return len(self.valid_runs) or sum(search.complete for search in self.found.searches)

    @property
    def valid_runs(self) -> tuple[RunReport, ...]:
        """The runs that may be used."""
        return tuple(run for run in self.found.runs if run.valid)


@dataclass(frozen=True)
class Study:
    """All of it.

    Attributes:
        systems: in the order of the files, and in a file as named. The first is compared with each of the others.
        points: in the order in which they were measured.
        measured: what each system did, by its label and the point; absent where it was not measured.
        sources: the files.
    """

    systems: tuple[System, ...]
    points: tuple[Point, ...]
    measured: Mapping[tuple[str, Point], Measured]
    sources: tuple[Source, ...]

    def at(self, system: System, point: Point) -> Measured | None:
        """Return what a system did at a point; None where it was not measured there."""
        return self.measured.get((system.label, point))

    def number(self, system: System, point: Point, metric: str) -> Repeated | None:
        """Return a metric of a system at a point, over the repetitions; None where there is none."""
        found = self.at(system, point)
        return found.number(metric) if found else None

    def ratio(self, other: System, point: Point, metric: str) -> Interval | None:
        """Return the first system's number by another's; None where one has none, and for the first itself."""
        found = self.at(other, point)
        return found.ratio(metric) if found else None

    @property
    def headline(self) -> Point:
        """The point that the page begins with: of those with the most repetitions of all systems, the middle one.

        No result has a say in the choice. Of points that are equally far from the middle of the axes, the first is it.
        """
        most = max(map(self._repetitions, self.points))
        candidates = [point for point in self.points if self._repetitions(point) == most]
        return min(candidates, key=lambda point: distance_from_middle(point, candidates))

    def _repetitions(self, point: Point) -> tuple[int, int]:
        counts = [found.repetitions if (found := self.at(system, point)) else 0 for system in self.systems]
        return min(counts), sum(counts)


def _is_finite(interval: Interval) -> bool:
    return all(math.isfinite(value) for value in (interval.value, interval.low, interval.high))
