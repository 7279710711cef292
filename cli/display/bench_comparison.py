"""The result of `sun bench` as tables for a terminal: systems side by side, points below each other, medians."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.errors import flag_name
from sun_sglang.bench.load.metrics.interval import Interval
from sun_sglang.bench.load.metrics.repeated import Repeated
from sun_sglang.bench.serving.comparison import MAX_RATE
from sun_sglang.bench.serving.problems import describe_point
from sun_sglang.bench.serving.result import BenchResult, PointReport
from sun_sglang.cli.display.bench_live import describe_load
from sun_sglang.cli.display.bench_tables import number_columns, number_text, render_run

_THROUGHPUT = "output_token_throughput"
_PER_DECODE = "output_token_throughput_per_decode_worker"
_TPOT = "inter_token_latency.p50"
_ROWS = (
    ("output tokens/s", _THROUGHPUT),
    ("  per worker", "output_token_throughput_per_worker"),
    ("  per decode worker", _PER_DECODE),
    ("requests/s", "request_throughput"),
    ("sessions/s", "sessions.session_throughput"),
    ("TTFT p50, ms", "time_to_first_token.p50"),
    ("  p99", "time_to_first_token.p99"),
    ("TPOT p50, ms", _TPOT),
    ("  p99", "inter_token_latency.p99"),
    ("latency p50, ms", "request_latency.p50"),
    ("  p99", "request_latency.p99"),
    ("session p50, ms", "sessions.session_latency.p50"),
    ("  p95", "sessions.session_latency.p95"),
    ("tokens/s per user", "interactivity"),
    ("achieved/offered", "achieved_ratio"),
    ("goodput, requests/s", "goodput"),
    ("within objectives", "good_request_ratio"),
    ("prompts from cache", "cache_hit_ratio"),
    ("fairness (Jain)", "fairness"),
)
_COLUMNS = (
    ("tokens\nper s", _THROUGHPUT),
    ("per decode\nworker", _PER_DECODE),
    ("TTFT\np50 ms", "time_to_first_token.p50"),
    ("TPOT\np50 ms", _TPOT),
    ("within\nobjectives", "good_request_ratio"),
)


def render_result(result: BenchResult) -> RenderableType:
    """Return the tables of a result: all of one run, or the medians of several."""
    if len(result.runs) == 1 and len(result.systems) == len(result.points) == 1 and not result.settings.find_max_rate:
        (system,), (point,) = result.systems, result.points
        return render_run(system, result.settings_of(point), result.runs[0])
    parts: list[RenderableType] = [_head(result)]
    if result.settings.find_max_rate:
        parts.append(_rates(result))
    elif len(result.points) == 1:
        parts.append(_metrics(result, result.points[0]))
    else:
        parts.append(_grid(result))
    parts += _sentences(result)
    parts += [Text(f"note: {note}", style="yellow") for note in _notes(result)]
    return Group(*parts)


def _head(result: BenchResult) -> Text:
    names = ", ".join(f"{s.name}{_workers(s.workers, s.decode_workers)}" for s in result.systems)
    varied = [flag_name(name) for name in result.settings.sweep]
    several = f"; {len(result.points)} points of {', '.join(varied)}" if varied else ""
    alone = not varied and not result.settings.find_max_rate
    load = describe_load(result.settings.workload) if alone else f"{len(result.settings.workload.tasks)} tasks"
    medians = (
        f"; medians of up to {result.settings.num_profile_runs} repetitions, with the least and the largest"
        if result.settings.num_profile_runs > 1
        else ""
    )
    return Text(f"{names}: {load}{several}{medians}", style="bold")


def _workers(workers: int | None, decode: int | None) -> str:
    return f" ({workers} workers, {decode} decode)" if workers is not None else ""


def _metrics(result: BenchResult, point: PointReport) -> Table:
    """Return the table of one point: a row for each metric, a column for each system and each ratio."""
    first = result.systems[0].name
    names = [system.name for system in result.systems]
    compared_with = [name for name, found in point.ratios.items() if found]
    # a cell of two systems fits into 80 columns; of more, cells are wrapped
    whole = len(names) <= 2
    ratios = [Column(f"{first}\n/ {name}", justify="right", no_wrap=whole) for name in compared_with]
    table = Table(
        Column("", no_wrap=whole), *number_columns(*names), *ratios, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for label, metric in _ROWS:
        found = [point.systems[name].summary.get(metric) for name in names]
        if any(found):
            compared = [_ratio(point.ratios[name].get(metric)) for name in compared_with]
            table.add_row(label, *map(_median, found), *compared)
    return table


def _grid(result: BenchResult) -> Table:
    """Return the table of several points: a row for each system at each point."""
    swept, several = list(result.settings.sweep), len(result.systems) > 1
    columns = [column for column in _COLUMNS if _has(result, column[1])]
    first = result.systems[0].name
    heads = [
        *([""] if several else []),
        *(head for head, _ in columns),
        *([f"tokens/s of\n{first} / it"] if several else []),
    ]
    table = Table(*number_columns(*(flag_name(name) for name in swept)), *number_columns(*heads), box=box.SIMPLE_HEAD)
    for point in result.points:
        for number, system in enumerate(result.systems):
            summary = point.systems[system.name].summary
            values = [str(point.values[name]) if number == 0 else "" for name in swept]
            ratio = _ratio(point.ratios.get(system.name, {}).get(_THROUGHPUT))
            table.add_row(
                *values,
                *([system.name] if several else []),
                *(number_text(summary[metric].value) if metric in summary else "" for _, metric in columns),
                *([ratio] if several else []),
            )
    return table


def _rates(result: BenchResult) -> Table:
    """Return the table of searches: the highest rate of each system at each point."""
    swept = list(result.settings.sweep)
    names = [flag_name(name) for name in swept]
    table = Table(
        *number_columns(*names), "", *number_columns("highest rate,\nrequests/s", "runs"), box=box.SIMPLE_HEAD
    )
    for point in result.points:
        for number, system in enumerate(result.systems):
            found = point.systems[system.name]
            values = [str(point.values[name]) if number == 0 else "" for name in swept]
            runs = sum(len(search.steps) for search in found.searches)
            rate = _median(found.summary.get(MAX_RATE)) or ("none" if found.searches else "")
            table.add_row(*values, system.name, rate, str(runs))
    return table


def _sentences(result: BenchResult) -> Iterator[Text]:
    """Yield the comparison of the first system with each other one in words."""
    first = result.systems[0].name
    for point in result.points:
        where = f"{text}: " if (text := describe_point(point)) else ""
        for name, ratios in point.ratios.items():
            if (rate := ratios.get(MAX_RATE)) is not None:
                yield Text(f"{where}{first} carries {_ratio(rate)} the traffic of {name}", style="bold")
            elif len(result.points) == 1 and _THROUGHPUT in ratios:
                yield Text(f"{first} generates {_ratios(ratios)} of {name}", style="bold")


def _ratios(ratios: Mapping[str, Interval]) -> str:
    text = f"{_ratio(ratios[_THROUGHPUT])} the tokens"
    if _PER_DECODE in ratios:
        text += f", {_ratio(ratios[_PER_DECODE])} for each decode worker,"
    if _TPOT in ratios:
        text += f" at {_ratio(ratios[_TPOT])} the TPOT"
    return text


def _notes(result: BenchResult) -> Iterator[str]:
    yield from result.notes
    # the same note of many runs is shown once
    seen: dict[str, str] = {}
    for point in result.points:
        for name, found in point.systems.items():
            where = ", ".join(filter(None, (name, describe_point(point))))
            for run in found.runs:
                if run.ending is Ending.CUT_SHORT:
                    yield f"{where}: cut short after {run.window.seconds:.1f} s of its window"
                for note in run.notes:
                    seen.setdefault(note, where)
    yield from (f"{where}: {note}" for note, where in seen.items())


def _has(result: BenchResult, metric: str) -> bool:
    return any(metric in found.summary for point in result.points for found in point.systems.values())


def _median(found: Repeated | None) -> str:
    """Return a median, with the least and the largest value where there are several."""
    if found is None:
        return ""
    text = number_text(found.value) or ""
    return f"{text} ({number_text(found.min)}-{number_text(found.max)})" if found.repetitions > 1 else text


def _ratio(found: Interval | None) -> str:
    """Return a ratio, with its interval where there are several repetitions."""
    if found is None:
        return ""
    return f"{found.value:.2f}x [{found.low:.2f}, {found.high:.2f}]" if found.repetitions > 1 else f"{found.value:.2f}x"
