"""The tasks of each system at a point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from sun_sglang.bench.load.metrics.distribution import Distribution
from sun_sglang.bench.serving.report.study import quantities as q
from sun_sglang.bench.serving.report.study.names import short
from sun_sglang.bench.serving.report.study.point import Point
from sun_sglang.bench.serving.report.study.study import Study
from sun_sglang.bench.serving.report.tables.table import Cell, Table
from sun_sglang.bench.serving.run_report import TaskReport

MOST_TASKS = 40
"""Tasks of a table; the file has all."""

_Value = Callable[[TaskReport], float | None]


def _part(metric: str, part: str) -> _Value:
    def value(task: TaskReport) -> float | None:
        found: Distribution | None = getattr(task.metrics, metric)
        return getattr(found, part) if found else None

    return value


_PERCENT = q.Quantity("", "", "", q.Form.PERCENT)
_NUMBER = q.Quantity("", "", "")
_COUNT = q.Quantity("", "", "", q.Form.COUNT)
_COLUMNS: Sequence[tuple[str, q.Quantity, _Value]] = (
    ("share of the requests", _PERCENT, lambda task: task.offered_share),
    ("output tokens/s", _NUMBER, lambda task: task.metrics.output_token_throughput),
    ("TTFT p50, ms", _NUMBER, _part("time_to_first_token", "p50")),
    ("TTFT p95, ms", _NUMBER, _part("time_to_first_token", "p95")),
    ("TPOT mean, ms", _NUMBER, _part("inter_token_latency", "avg")),
    ("request latency p95, ms", _NUMBER, _part("request_latency", "p95")),
    ("achieved / offered", _PERCENT, lambda task: task.metrics.achieved_ratio),
    ("within the objectives", _PERCENT, lambda task: task.metrics.good_request_ratio),
    ("prompt tokens from a cache", _PERCENT, lambda task: task.metrics.cache_hit_ratio),
    ("failed", _COUNT, lambda task: float(task.metrics.error_request_count)),
)


def tasks_at(study: Study, point: Point) -> Table:
    """Return the tasks at a point, each with a row for each system: medians over the valid repetitions."""
    found = [
        (system.label, at.valid_runs) for system in study.systems if (at := study.at(system, point)) and at.valid_runs
    ]
    names = list(dict.fromkeys(task for _, runs in found for run in runs for task in run.tasks))
    rows = []
    for name in names[:MOST_TASKS]:
        for label, runs in found:
            reports = [run.tasks[name] for run in runs if name in run.tasks]
            if reports:
                rows.append((name, label, [_middle(reports, value) for _, _, value in _COLUMNS]))
    shown = [i for i in range(len(_COLUMNS)) if any(values[i] is not None for _, _, values in rows)]
    heads = ("task", "system", *(_COLUMNS[i][0] for i in shown))
    cells = tuple(
        (
            Cell(short(name)),
            Cell(label),
            *(Cell("-" if (value := values[i]) is None else _COLUMNS[i][1].text(value)) for i in shown),
        )
        for name, label, values in rows
    )
    return Table("", heads, cells, heads=2, note=_note(study, point, len(names)))


def _middle(tasks: Sequence[TaskReport], value: _Value) -> float | None:
    values = [found for task in tasks if (found := value(task)) is not None]
    return median(values) if values else None


def _note(study: Study, point: Point, count: int) -> str:
    parts = []
    if count > MOST_TASKS:
        parts.append(f"The {count - MOST_TASKS:,} tasks that follow are in the JSON file.")
    fair = [
        f"{system.label} {q.FAIRNESS.text(found.value)}"
        for system in study.systems
        if (found := study.number(system, point, q.FAIRNESS.metric))
    ]
    if fair and count > 1:
        parts.append(f"Fairness over the tasks (Jain's index of achieved / offered, 1 is fair): {', '.join(fair)}.")
    return " ".join(parts)
