"""The turns of the sessions of each system at a point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from sun_sglang.bench.load.metrics.distribution import Distribution
from sun_sglang.bench.load.metrics.sessions import TurnMetrics
from sun_sglang.bench.serving.report.study import quantities as q
from sun_sglang.bench.serving.report.study.point import Point
from sun_sglang.bench.serving.report.study.study import Study
from sun_sglang.bench.serving.report.tables.table import Cell, Table
from sun_sglang.bench.serving.run_report import RunReport

_Value = Callable[[TurnMetrics], float | None]


def _part(metric: str, part: str) -> _Value:
    def value(turn: TurnMetrics) -> float | None:
        found: Distribution | None = getattr(turn, metric)
        return getattr(found, part) if found else None

    return value


_NUMBER = q.Quantity("", "", "")
_COLUMNS: Sequence[tuple[str, q.Quantity, _Value]] = (
    ("prompt tokens, mean", _NUMBER, _part("input_sequence_length", "avg")),
    ("from a cache", q.Quantity("", "", "", q.Form.PERCENT), lambda turn: turn.cache_hit_ratio),
    ("TTFT p50, ms", _NUMBER, _part("time_to_first_token", "p50")),
    ("TTFT p95, ms", _NUMBER, _part("time_to_first_token", "p95")),
    ("request latency p95, ms", _NUMBER, _part("request_latency", "p95")),
)


def turns_at(study: Study, point: Point) -> Table:
    """Return the turns at a point, each with a row for each system: medians over the valid repetitions.

    The table has no rows where no run has sessions.
    """
    found = [
        (system.label, turns)
        for system in study.systems
        if (at := study.at(system, point)) is not None and (turns := _turns(at.valid_runs))
    ]
    numbers = sorted({number for _, turns in found for number in turns})
    rows = tuple(
        (Cell(str(number + 1)), Cell(label), *(_cell(turns[number], value, form) for _, form, value in _COLUMNS))
        for number in numbers
        for label, turns in found
        if number in turns
    )
    heads = ("turn", "system", *(head for head, _, _ in _COLUMNS))
    return Table("", heads, rows, heads=2, note="The requests of all agents in a turn, medians over the repetitions.")


def _turns(runs: Sequence[RunReport]) -> dict[int, list[TurnMetrics]]:
    """Return each turn of some runs by its number, with an entry for each run that has it."""
    turns: dict[int, list[TurnMetrics]] = {}
    for run in runs:
        for turn in run.sessions.turns if run.sessions is not None else ():
            turns.setdefault(turn.turn, []).append(turn)
    return turns


def _cell(turns: Sequence[TurnMetrics], value: _Value, form: q.Quantity) -> Cell:
    values = [found for turn in turns if (found := value(turn)) is not None]
    return Cell(form.text(median(values)) if values else "-")
