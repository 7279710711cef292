"""The share of the offered requests that a system completes, over skew and load: figure 5 of SUN."""

from __future__ import annotations

import dataclasses

from sun_sglang.bench.serving.report.figures.figure import Cell, Figure, Grid, Row
from sun_sglang.bench.serving.report.figures.slices import limited
from sun_sglang.bench.serving.report.study.point import Point, describe, varying
from sun_sglang.bench.serving.report.study.quantities import ACHIEVED, interval_text
from sun_sglang.bench.serving.report.study.study import Study, System


def achieved_by_offered(study: Study) -> Figure:
    """Return a grid for each system: rows are the skew, columns the offered rate."""
    groups: dict[Point, list[Point]] = {}
    for point in study.points:
        if point.request_rate is not None:
            groups.setdefault(dataclasses.replace(point, request_rate=None, zipf=None), []).append(point)
    shown = varying(study.points) - {"zipf", "request_rate"}
    rows, left_out = limited(
        [Row(describe(rest, shown), grids=_grids(study, points)) for rest, points in groups.items() if len(points) > 1]
    )
    return Figure(
        "achieved",
        "Achieved by offered requests",
        "The requests that were completed in the window, by those that were due in it. Near 100 % the system carries "
        "the load; lower, requests queue up, and latencies grow for as long as the load lasts; above it, requests that "
        "were due before the window were answered in it. As figure 5 of the SUN paper.",
        rows,
        ""
        if rows
        else "It needs an open loop with two or more values of --request-rate, or "
        "of --zipf: in a closed loop no request waits for its turn outside.",
        left_out,
    )


def _grids(study: Study, points: list[Point]) -> tuple[Grid, ...]:
    rates = sorted({point.request_rate for point in points if point.request_rate is not None})
    skews = sorted({point.zipf for point in points if point.zipf is not None})
    by_place = {(point.zipf, point.request_rate): point for point in points}
    grids = []
    for system in study.systems:
        rows = tuple(
            (f"{zipf:g}", tuple(_cell(study, system, by_place.get((zipf, rate))) for rate in rates)) for zipf in skews
        )
        if any(cell.share is not None for _, cells in rows for cell in cells):
            columns = tuple(f"{rate:g}" for rate in rates)
            corner = ("Zipf", f"offered {points[0].unit}/s")
            grids.append(Grid(system.label, system.number, corner, columns, rows))
    return tuple(grids)


def _cell(study: Study, system: System, point: Point | None) -> Cell:
    found = study.number(system, point, ACHIEVED.metric) if point is not None else None
    if found is None:
        return Cell(None, "not measured")
    return Cell(found.value, ACHIEVED.text(found.value), interval_text(found, ACHIEVED))
