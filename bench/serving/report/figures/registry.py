"""The figures, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable

from sun_sglang.bench.serving.report.figures.achieved import achieved_by_offered
from sun_sglang.bench.serving.report.figures.figure import Figure
from sun_sglang.bench.serving.report.figures.max_rate import highest_rate
from sun_sglang.bench.serving.report.figures.over_axis import over_load, over_sessions, over_skew
from sun_sglang.bench.serving.report.figures.throughput import throughput_and_interactivity, trade_off
from sun_sglang.bench.serving.report.study.study import Study

FIGURES: tuple[Callable[[Study], Figure], ...] = (
    throughput_and_interactivity,
    highest_rate,
    trade_off,
    over_skew,
    over_load,
    achieved_by_offered,
    over_sessions,
)
