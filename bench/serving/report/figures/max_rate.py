"""The highest rate that each system carries within the objectives."""

from __future__ import annotations

from sun_sglang.bench.serving.report.figures.figure import Figure, Row
from sun_sglang.bench.serving.report.figures.slices import limited, panel, single, slices
from sun_sglang.bench.serving.report.study.point import describe, varying
from sun_sglang.bench.serving.report.study.quantities import MAX_RATE
from sun_sglang.bench.serving.report.study.study import Study


def highest_rate(study: Study) -> Figure:
    """Return the result of the searches as bars."""
    found = slices(study.points, "zipf")
    rows = [
        Row(one.label(study.points), (drawn,))
        for one in found
        if (drawn := panel(study, one, MAX_RATE, "bars")) is not None
    ]
    in_groups = {point for one in found for point in one.points}
    shown = varying(study.points)
    rows += [
        Row(describe(point, shown), (drawn,))
        for point in study.points
        if point not in in_groups and (drawn := single(study, point, MAX_RATE, "bars")) is not None
    ]
    kept, left_out = limited(rows)
    return Figure(
        "max-rate",
        "Highest rate within the objectives",
        "The most requests per second of which enough were within the objectives of --goodput.",
        kept,
        "" if kept else "It needs --find-max-rate with --goodput.",
        left_out,
    )
