"""The highest rate that each system carries within the objectives."""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.bench.serving.report.figures.figure import Figure, Row
from sun_sglang.bench.serving.report.figures.slices import grouped, limited, panel, single
from sun_sglang.bench.serving.report.study.point import Axis, describe, varying
from sun_sglang.bench.serving.report.study.quantities import MAX_RATE
from sun_sglang.bench.serving.report.study.study import Study

_GROUPS: Sequence[Axis] = ("zipf", "osl", "isl")


def highest_rate(study: Study) -> Figure:
    """Return the result of the searches as bars."""
    groups, alone = grouped(study.points, _GROUPS)
    shown = varying(study.points)
    panels = [(one.label(study.points), panel(study, one, MAX_RATE, "bars")) for one in groups]
    panels += [(describe(point, shown), single(study, point, MAX_RATE, "bars")) for point in alone]
    rows = [Row(label, (drawn,)) for label, drawn in panels if drawn is not None]
    kept, left_out = limited(rows)
    return Figure(
        "max-rate",
        "Highest rate within the objectives",
        "The most requests per second of which enough were within the objectives of --goodput.",
        kept,
        "" if kept else "It needs --find-max-rate with --goodput.",
        left_out,
    )
