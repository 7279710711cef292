"""A study along one axis: the points that differ in one setting alone, and panels over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sun_sglang.bench.load.metrics.interval import Interval
from sun_sglang.bench.serving.report.figures.figure import Kind, Mark, Panel, Row, Series, Ticks
from sun_sglang.bench.serving.report.study.point import (
    Axis,
    Point,
    axis_label,
    describe,
    order,
    tick_label,
    varying,
)
from sun_sglang.bench.serving.report.study.quantities import Quantity, interval_text
from sun_sglang.bench.serving.report.study.study import Study, System

MOST_ROWS = 6
"""Rows of a figure; the tables have every point."""

_LOG_FROM = 16.0
_TALL = 50.0
_GROUPED = 0.8


@dataclass(frozen=True)
class Slice:
    """Points that differ in one setting alone.

    Attributes:
        axis: the setting.
        rest: the settings that they share.
        points: the points, in the order of the axis; two or more.
    """

    axis: Axis
    rest: Point
    points: tuple[Point, ...]

    @property
    def is_numeric(self) -> bool:
        """Whether all values of the axis are numbers."""
        return all(isinstance(point.value(self.axis), float | int) for point in self.points)

    def label(self, among: Iterable[Point]) -> str:
        """Return the shared settings as text, as far as they vary among some points."""
        return describe(self.rest, varying(among) - {self.axis})


def slices(points: Iterable[Point], axis: Axis) -> list[Slice]:
    """Return the points by the settings other than an axis; only those with two or more values on it."""
    groups: dict[Point, list[Point]] = {}
    for point in points:
        if point.value(axis) is not None:
            groups.setdefault(point.without(axis), []).append(point)
    return [
        Slice(axis, rest, tuple(sorted(found, key=lambda point: order(point.value(axis)))))
        for rest, found in groups.items()
        if len(found) > 1
    ]


def grouped(points: Sequence[Point], axes: Sequence[Axis]) -> tuple[list[Slice], list[Point]]:
    """Return the points as slices, each point in one, and the points that are in none.

    Args:
        points: the points.
        axes: settings; a point is in a slice along the first one that has a slice with it.
    """
    found: list[Slice] = []
    rest = list(points)
    for axis in axes:
        along = slices(rest, axis)
        taken = {point for one in along for point in one.points}
        found += along
        rest = [point for point in rest if point not in taken]
    return found, rest


def limited(rows: Sequence[Row]) -> tuple[tuple[Row, ...], int]:
    """Return the rows that have something to draw, at most `MOST_ROWS`, and how many are over the limit."""
    drawn = [row for row in rows if row.panels or row.grids]
    return tuple(drawn[:MOST_ROWS]), max(0, len(drawn) - MOST_ROWS)


def panel(study: Study, found: Slice, quantity: Quantity, kind: Kind = "lines") -> Panel | None:
    """Return the panel of a quantity over a slice; None where no system has two or more numbers.

    Args:
        study: the study.
        found: the points.
        quantity: the vertical axis.
        kind: lines need an axis of numbers; without one, and for the other kinds, the points are groups.
    """
    by_number = kind == "lines" and found.is_numeric
    xs = [_number(point.value(found.axis)) if by_number else float(i) for i, point in enumerate(found.points)]
    series = _series(study, list(zip(xs, found.points, strict=True)), quantity)
    if not any(len(one.marks) > 1 for one in series):
        return None
    ticks = tuple((x, tick_label(point.value(found.axis) or 0)) for x, point in zip(xs, found.points, strict=True))
    is_log = by_number and min(xs) > 0 and max(xs) >= _LOG_FROM * min(xs)
    axis = Ticks(axis_label(found.axis, found.rest.unit), ticks, is_log)
    return _panel(quantity, kind if kind != "lines" or by_number else "dots", axis, series)


def single(study: Study, point: Point, quantity: Quantity, kind: Kind) -> Panel | None:
    """Return the panel of a quantity at one point; None where no system has a number."""
    series = _series(study, [(0.0, point)], quantity)
    return _panel(quantity, kind, Ticks("", ((0.0, ""),)), series) if series else None


def mark(x: float, interval: Interval, quantity: Quantity, where: str) -> Mark:
    """Return a number of a figure.

    Args:
        x: where on the axis.
        interval: the number with its interval.
        quantity: what it is.
        where: the system and the point, for a reader.
    """
    ends = interval_text(interval, quantity)
    text = " ".join(
        part for part in (quantity.text(interval.value), quantity.unit, f"({ends})" if ends else "") if part
    )
    return Mark(x, interval.value, interval.low, interval.high, f"{where}: {text}")


def _series(study: Study, places: Sequence[tuple[float, Point]], quantity: Quantity) -> tuple[Series, ...]:
    found = []
    for system in study.systems:
        marks = tuple(_marks(study, system, places, quantity))
        if marks:
            found.append(Series(system.label, system.number, marks))
    return tuple(found)


def _marks(study: Study, system: System, places: Sequence[tuple[float, Point]], quantity: Quantity) -> Iterable[Mark]:
    shown = varying(study.points)
    for x, point in places:
        number = study.number(system, point, quantity.metric)
        if number is not None:
            where = ", ".join(part for part in (system.label, describe(point, shown)) if part)
            yield mark(x, number, quantity, where)


def _panel(quantity: Quantity, kind: Kind, axis: Ticks, series: tuple[Series, ...]) -> Panel:
    values = [mark.value for one in series for mark in one.marks]
    # a latency that explodes leaves nothing of the others on a linear axis; a bar must begin at 0
    is_log = kind != "bars" and min(values) > 0 and max(values) > _TALL * min(values)
    title = quantity.title + (" (logarithmic)" if is_log else "")
    return Panel(title, kind, axis, series, quantity.form, is_log)


def _number(value: float | str | None) -> float:
    assert isinstance(value, float | int)
    return float(value)
