"""What went wrong: failed requests, runs that are not valid, and what a reader of the numbers should know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.serving.report.study.point import Point, describe, varying
from sun_sglang.bench.serving.report.study.study import Study, System
from sun_sglang.bench.serving.report.tables.table import Cell, Table
from sun_sglang.bench.serving.result import SystemPoint
from sun_sglang.bench.serving.run_report import ErrorReport, RunReport

_MOST_ROWS = 100


class _Run(NamedTuple):
    system: System
    point: Point
    run: RunReport


def failed_requests(study: Study) -> Table:
    """Return the failed requests of all runs by system and kind, the most frequent first."""
    found: dict[tuple[str, str], list[ErrorReport]] = {}
    for system, _, run in _all_runs(study):
        for error in run.errors:
            found.setdefault((system.label, error.kind), []).append(error)
    rows = sorted(
        (
            (sum(error.count for error in errors), label, kind, sum(e.in_window for e in errors), errors[0])
            for (label, kind), errors in found.items()
        ),
        key=lambda row: -row[0],
    )
    cells = tuple(
        (Cell(label), Cell(kind), Cell(first.first_message), Cell(f"{count:,}"), Cell(f"{in_window:,}"))
        for count, label, kind, in_window, first in rows[:_MOST_ROWS]
    )
    return Table("", ("system", "kind", "first message", "requests", "in the window"), cells, heads=3)


def verdict(study: Study) -> str:
    """Return in one sentence whether all runs may be used."""
    runs = [run.run for run in _runs(study)]
    searches = sum(len(found.searches) for _, _, found in _found(study))
    bad = sum(not run.valid for run in runs)
    short = sum(run.ending is Ending.CUT_SHORT for run in runs)
    ending = f" {short} of them the user stopped early." if short else ""
    if not runs and not searches:
        return "Nothing was measured."
    if not runs:
        return "The search is valid." if searches == 1 else f"All {searches} searches are valid."
    if not bad:
        return ("The run is valid." if len(runs) == 1 else f"All {len(runs)} runs are valid.") + ending
    verb = "is" if bad == 1 else "are"
    return f"{bad} of {len(runs)} runs {verb} not valid, and {verb} in no number of this page.{ending}"


def is_valid(study: Study) -> bool:
    """Return whether something was measured, and every run may be used."""
    runs = [run.run for run in _runs(study)]
    searched = any(found.searches for _, _, found in _found(study))
    return (bool(runs) or searched) and all(run.valid for run in runs)


def problems(study: Study) -> Table:
    """Return each run that is not valid, and each system that could not be measured, with the reason."""
    shown = varying(study.points)
    cells = [
        (Cell(system.label), Cell("all"), Cell("-"), Cell(system.report.error))
        for system in study.systems
        if system.report.error is not None
    ]
    cells += [
        (Cell(system.label), Cell(describe(point, shown) or "all"), Cell(str(run.repetition + 1)), Cell(problem))
        for system, point, run in _runs(study)
        for problem in run.problems
    ]
    return Table("", ("system", "load", "repetition", "problem"), tuple(cells[:_MOST_ROWS]), heads=4)


def notes(study: Study) -> tuple[str, ...]:
    """Return what a reader should know: of the files, of what differs between them, and of the runs."""
    found = [*(note for source in study.sources for note in source.result.notes), *_differences(study)]
    of_runs: dict[str, list[str]] = {}
    shown = varying(study.points)
    for system, point, run in _runs(study):
        where = ", ".join(part for part in (system.label, describe(point, shown)) if part)
        for note in run.notes:
            of_runs.setdefault(note, []).append(where)
    for note, places in of_runs.items():
        where = "; ".join(dict.fromkeys(places))
        found.append(f"{where}: {note}")
    return tuple(found[:_MOST_ROWS])


def _differences(study: Study) -> Iterator[str]:
    results = [source.result for source in study.sources]
    if len({str(result.machine) for result in results}) > 1:
        yield "The files are from different machines: a ratio between them compares the machines too."
    if len({result.revision for result in results}) > 1:
        yield "The files are from different commits of the code."
    for point in study.points:
        plans = {found.plan.sha256 for system in study.systems if (found := study.at(system, point))}
        if len(plans) > 1:
            yield f"The requests differ between systems at {describe(point)}: other seeds, windows or files."


def _runs(study: Study) -> Iterator[_Run]:
    """Yield each run whose numbers count. A search that ended by its own rule is whole, whatever its steps were."""
    for system, point, found in _found(study):
        for run in found.runs:
            yield _Run(system, point, run)
        for search in found.searches:
            if not search.complete:
                yield from (_Run(system, point, step.run) for step in search.steps[-1:])


def _all_runs(study: Study) -> Iterator[_Run]:
    """Yield every run, those of searches included."""
    for system, point, found in _found(study):
        steps = (step.run for search in found.searches for step in search.steps)
        yield from (_Run(system, point, run) for run in (*found.runs, *steps))


def _found(study: Study) -> Iterator[tuple[System, Point, SystemPoint]]:
    for point in study.points:
        for system in study.systems:
            if (measured := study.at(system, point)) is not None:
                yield system, point, measured.found
