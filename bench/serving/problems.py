"""What keeps the numbers of a whole result from being used. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sun_sglang.bench.serving.result import BenchResult, PointReport
from sun_sglang.bench.serving.run_report import RunReport


def problems_of_result(result: BenchResult) -> tuple[str, ...]:
    """Return why parts of a result may not be used; nothing where all of it may.

    A search that ended by its own rule is whole: that no request is completed at a rate is an answer, too.
    """
    return tuple(_problems(result))


def describe_point(point: PointReport) -> str:
    """Return the values of a point as text; empty where there is one point only."""
    return ", ".join(f"{name} {value}" for name, value in point.values.items())


def _problems(result: BenchResult) -> Iterator[str]:
    for system in result.systems:
        if system.error is not None:
            yield f"{system.name} was not measured: {system.error}"
    for point in result.points:
        for name, found in point.systems.items():
            runs = [
                *found.runs,
                *(step.run for search in found.searches if not search.complete for step in search.steps[-1:]),
            ]
            for run in runs:
                where = _where(result, point, name, run)
                yield from (f"{where} is not valid: {problem}" for problem in run.problems)


def _where(result: BenchResult, point: PointReport, name: str, run: RunReport) -> str:
    """Return the name of a run: of one that is alone, `the result`."""
    parts = [name] if len(result.systems) > 1 else []
    parts += [text] if (text := describe_point(point)) else []
    parts += [f"repetition {run.repetition + 1}"] if result.settings.num_profile_runs > 1 else []
    return ", ".join(parts) or "the result"
