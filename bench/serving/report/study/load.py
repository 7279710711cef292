"""Results -> a study. Two files may have different systems, or the same system at different points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.comparison import ratios_of
from sun_sglang.bench.serving.report.study.names import unique
from sun_sglang.bench.serving.report.study.point import Point, point_of
from sun_sglang.bench.serving.report.study.study import Measured, Source, Study, System
from sun_sglang.bench.serving.result import BenchResult, PointReport, read_result


def read_study(files: Sequence[Path]) -> Study:
    """Return the study of some files.

    Raises:
        BenchError: a file cannot be read, or is no result of this version.
    """
    return study_of([Source(name, read_result(file)) for name, file in zip(_names(files), files, strict=True)])


def study_of(sources: Sequence[Source]) -> Study:
    """Return the study of some results.

    A system has the name of its file added where two files have its name: these are two systems, not repetitions of
    one, unless they were measured at different points; then they are one.

    Args:
        sources: at least one.

    Raises:
        BenchError: a file has a system at a point that it does not list.
    """
    for source in sources:
        _check(source)
    apart = _measured_twice(sources)
    labels = [
        {one.name: f"{one.name} ({source.name})" if one.name in apart else one.name for one in source.result.systems}
        for source in sources
    ]
    shown = unique(label for own in labels for label in own.values())
    systems: dict[str, System] = {}
    measured: dict[tuple[str, Point], Measured] = {}
    for number, (source, own) in enumerate(zip(sources, labels, strict=True)):
        for report in source.result.systems:
            label = shown[own[report.name]]
            systems.setdefault(label, System(label, len(systems), report, number))
        for point, found in _points(source.result):
            for name, at_point in found.systems.items():
                measured[shown[own[name]], point] = Measured(at_point, found.ratios.get(name, {}), found.plan, number)
    first = next(iter(systems))
    points = dict.fromkeys(point for source in sources for point, _ in _points(source.result))
    # the ratios of a file are of its own first system
    has_ratios = [shown[next(iter(own.values()))] == first for own in labels]
    return Study(tuple(systems.values()), tuple(points), _compared(measured, first, has_ratios), tuple(sources))


def _compared(
    measured: Mapping[tuple[str, Point], Measured], first: str, has_ratios: Sequence[bool]
) -> dict[tuple[str, Point], Measured]:
    """Return what was measured with the ratios of the first system of all files by each other one.

    Args:
        measured: with the ratios of each file's first system.
        first: label of the first system of all files.
        has_ratios: for each file, whether that is its first system too.
    """
    compared = {}
    for (label, point), this in measured.items():
        base = measured.get((first, point)) if label != first else None
        if base is None:
            compared[label, point] = replace(this, ratios={})
        elif base.source == this.source and has_ratios[this.source]:
            compared[label, point] = this
        else:
            compared[label, point] = replace(this, ratios=ratios_of(base.found, this.found))
    return compared


def _check(source: Source) -> None:
    """Raise BenchError where a point has a system that the file does not list."""
    listed = {report.name for report in source.result.systems}
    for point in source.result.points:
        for name in point.systems:
            if name not in listed:
                raise BenchError(f"{source.name}: a point has the system `{name}`, which `systems` does not list")


def _points(result: BenchResult) -> Iterator[tuple[Point, PointReport]]:
    for point in result.points:
        yield point_of(result.settings_of(point).workload), point


def _measured_twice(sources: Sequence[Source]) -> set[str]:
    """Return the names of systems that two files measured at one point."""
    times = Counter(
        (name, point) for source in sources for point, found in _points(source.result) for name in found.systems
    )
    return {name for (name, _), count in times.items() if count > 1}


def _names(files: Sequence[Path]) -> list[str]:
    """Return a short name of each file that no other has."""
    stems = [file.stem for file in files]
    return [
        stem if stems.count(stem) == 1 else f"{stem} #{stems[:number].count(stem) + 1}"
        for number, stem in enumerate(stems)
    ]
