"""Tables of numbers and ratios: all quantities at one point, and the main ones at every point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sun_sglang.bench.serving.report.study import quantities as q
from sun_sglang.bench.serving.report.study.point import Point, describe, varying
from sun_sglang.bench.serving.report.study.study import Study, System
from sun_sglang.bench.serving.report.tables.table import Cell, Table, number_cell, ratio_cell

_AT_ONE_POINT = (
    q.MAX_RATE,
    q.THROUGHPUT,
    q.PER_WORKER,
    q.PER_DECODE_WORKER,
    q.REQUESTS,
    q.INTERACTIVITY,
    q.TPOT,
    q.TPOT_P95,
    q.GAP_P99,
    q.TTFT,
    q.TTFT_P95,
    q.LATENCY,
    q.LATENCY_P95,
    q.DUE_LATENCY_P95,
    q.SESSION_RATE,
    q.SESSIONS,
    q.SESSION_LATENCY,
    q.SESSION_LATENCY_P95,
    q.ACHIEVED,
    q.GOODPUT,
    q.GOOD_RATIO,
    q.HITS,
    q.FAIRNESS,
)
_EVERYWHERE = (
    q.MAX_RATE,
    q.THROUGHPUT,
    q.PER_DECODE_WORKER,
    q.INTERACTIVITY,
    q.TPOT,
    q.TTFT_P95,
    q.LATENCY_P95,
    q.SESSION_LATENCY_P95,
    q.ACHIEVED,
    q.GOOD_RATIO,
    q.HITS,
    q.FAIRNESS,
)
# those of the columns at every point that have a ratio beside them
_WITH_RATIO = (q.MAX_RATE, q.THROUGHPUT, q.PER_DECODE_WORKER, q.TPOT)

_BRIEF = (
    ("requests/s\nat most", q.MAX_RATE),
    ("tokens/s", q.THROUGHPUT),
    ("per decode\nworker", q.PER_DECODE_WORKER),
    ("TPOT\nms", q.TPOT),
    ("TTFT\np95 ms", q.TTFT_P95),
)
_NOTE = "A number is the median over the repetitions, with its 95 % interval."


def at_point(study: Study, point: Point) -> Table:
    """Return every quantity at a point: a column for each system, and the first system's ratio to each other one."""
    first, *others = study.systems
    shown = q.with_numbers(_AT_ONE_POINT, _metrics(study, [point]))
    columns = [first.label]
    for other in others:
        columns += [other.label, f"{first.label} / {other.label}"]
    rows = []
    for quantity in shown:
        cells = [
            Cell(quantity.label, quantity.unit),
            number_cell(study.number(first, point, quantity.metric), quantity),
        ]
        for other in others:
            cells.append(number_cell(study.number(other, point, quantity.metric), quantity))
            cells.append(ratio_cell(study.ratio(other, point, quantity.metric)))
        rows.append(tuple(cells))
    return Table("", ("", *columns), tuple(rows), note=_repetitions(study, point))


def every_point(study: Study) -> Table:
    """Return the main quantities of each system at each point, with the first system's ratios to the others."""
    first = study.systems[0]
    points = [point for point in study.points if any(study.at(system, point) for system in study.systems)]
    shown = _columns(study, points)
    varies = varying(study.points)
    rows = []
    for point in points:
        for system in study.systems:
            if (found := study.at(system, point)) is None:
                continue
            runs = found.valid_runs
            window = f"{runs[0].window.start:g} + {runs[0].window.seconds:g} s" if runs else "-"
            label = describe(point, varies) or describe(point)
            cells = [Cell(label), Cell(system.label)]
            for quantity, has_ratio in shown:
                cells.append(number_cell(found.number(quantity.metric), quantity))
                if has_ratio:
                    cells.append(_ratio(study, system, point, quantity))
            failed = sum(run.total.error_request_count for run in runs)
            cells += [Cell(f"{failed:,}"), Cell(str(found.repetitions)), Cell(window)]
            rows.append(tuple(cells))
    heads = ["load", "system"]
    for quantity, has_ratio in shown:
        heads += [quantity.title, f"{first.label} / this"] if has_ratio else [quantity.title]
    return Table("", (*heads, "failed requests", "repetitions", "warm-up + window"), tuple(rows), heads=2, note=_NOTE)


def brief(study: Study) -> Table:
    """Return the few numbers that a terminal has the width for: each system at each point, and its ratio to the first.

    The ratio is of the highest rate where it was searched, else of the output tokens.
    """
    first = study.systems[0]
    present = set(_metrics(study, study.points))
    shown = [(head, quantity) for head, quantity in _BRIEF if quantity.metric in present]
    compared = shown[0][1] if shown else q.THROUGHPUT
    varies = varying(study.points)
    rows = []
    for point in study.points:
        label = describe(point, varies) or describe(point)
        for system in study.systems:
            if (found := study.at(system, point)) is None:
                continue
            numbers = (number_cell(found.number(quantity.metric), quantity) for _, quantity in shown)
            ratio = [_ratio(study, system, point, compared)] if len(study.systems) > 1 else []
            rows.append((Cell(label), Cell(system.label), *numbers, *ratio))
            label = ""
    heads = ["load", "system", *(head for head, _ in shown)]
    if len(study.systems) > 1:
        heads.append(f"{first.label}\n/ this")
    return Table("", tuple(heads), tuple(rows), heads=2, note=_NOTE)


def _columns(study: Study, points: Sequence[Point]) -> list[tuple[q.Quantity, bool]]:
    present = q.with_numbers(_EVERYWHERE, _metrics(study, points))
    return [(quantity, len(study.systems) > 1 and quantity in _WITH_RATIO) for quantity in present]


def _ratio(study: Study, system: System, point: Point, quantity: q.Quantity) -> Cell:
    return Cell("1") if system is study.systems[0] else ratio_cell(study.ratio(system, point, quantity.metric))


def _metrics(study: Study, points: Sequence[Point]) -> Iterator[str]:
    for point in points:
        for system in study.systems:
            if (found := study.at(system, point)) is not None:
                yield from found.found.summary


def _repetitions(study: Study, point: Point) -> str:
    counts = [found.repetitions for system in study.systems if (found := study.at(system, point))]
    counts = [count for count in counts if count]
    if not counts:
        return "No system has a valid run at this load."
    if max(counts) == 1:
        return "One repetition: no interval. --num-profile-runs 3 measures three."
    number = f"{counts[0]}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return (
        f"Medians of {number} repetitions, with the 95 % interval of a bootstrap over them. A ratio is of two medians, "
        "its repetitions drawn in pairs."
    )
