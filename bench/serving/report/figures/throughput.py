"""Throughput and interactivity: bars and dots in groups, as in figure 3 of SUN; and one against the other."""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.bench.serving.report.figures.figure import Figure, Mark, Panel, Row, Series, Ticks
from sun_sglang.bench.serving.report.figures.slices import Slice, grouped, limited, mark, panel, single, slices
from sun_sglang.bench.serving.report.study.point import Axis, describe, varying
from sun_sglang.bench.serving.report.study.quantities import INTERACTIVITY, PER_DECODE_WORKER, THROUGHPUT
from sun_sglang.bench.serving.report.study.study import Study, System

_GROUPS: Sequence[Axis] = ("osl", "isl", "request_rate", "concurrency", "zipf")
_LOADS: Sequence[Axis] = ("request_rate", "concurrency")


def throughput_and_interactivity(study: Study) -> Figure:
    """Return throughput as bars and interactivity as dots, in groups by the first setting that varies."""
    groups, alone = grouped(study.points, _GROUPS)
    shown = varying(study.points)
    in_groups = [
        Row(
            one.label(study.points),
            _present(
                panel(study, one, THROUGHPUT, "bars"),
                panel(study, one, PER_DECODE_WORKER, "bars"),
                panel(study, one, INTERACTIVITY, "dots"),
            ),
        )
        for one in groups
    ]
    by_themselves = [
        Row(
            describe(point, shown),
            _present(
                single(study, point, THROUGHPUT, "bars"),
                single(study, point, PER_DECODE_WORKER, "bars"),
                single(study, point, INTERACTIVITY, "dots"),
            ),
        )
        for point in alone
    ]
    rows, left_out = limited([*in_groups, *by_themselves])
    return Figure(
        "throughput",
        "Throughput and interactivity",
        "What a system serves in all and with each decode worker, and how fast one user receives an answer "
        "(interactivity: 1000 / mean TPOT in ms). Higher is better in every panel; fewer decode workers trade the last "
        "for the second. As figure 3 of the SUN paper.",
        rows,
        "" if rows else "It needs a valid run.",
        left_out,
    )


def trade_off(study: Study) -> Figure:
    """Return throughput against interactivity, a line for each system over the loads."""
    rows, left_out = limited(
        [
            Row(one.label(study.points), _present(_curve(study, one)))
            for axis in _LOADS
            for one in slices(study.points, axis)
        ]
    )
    return Figure(
        "trade-off",
        "Throughput against interactivity",
        "Each mark is one load; a line connects the loads of a system in their order. Further up and to the right is "
        "better: more tokens in all, at the same speed for a user.",
        rows,
        "" if rows else "It needs two or more values of --request-rate or --concurrency.",
        left_out,
    )


def _curve(study: Study, found: Slice) -> Panel | None:
    series = tuple(
        Series(system.label, system.number, marks)
        for system in study.systems
        if len(marks := _curve_marks(study, system, found)) > 1
    )
    if not series:
        return None
    return Panel(THROUGHPUT.title, "lines", Ticks(INTERACTIVITY.title), series)


def _curve_marks(study: Study, system: System, found: Slice) -> tuple[Mark, ...]:
    marks = []
    for point in found.points:
        made = study.number(system, point, THROUGHPUT.metric)
        speed = study.number(system, point, INTERACTIVITY.metric)
        if made is not None and speed is not None:
            user = f"{INTERACTIVITY.text(speed.value)} {INTERACTIVITY.unit}"
            marks.append(mark(speed.value, made, THROUGHPUT, f"{system.label}, {describe(point)}, {user}"))
    return tuple(marks)


def _present(*panels: Panel | None) -> tuple[Panel, ...]:
    return tuple(panel for panel in panels if panel is not None)
