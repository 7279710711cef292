"""Many values of one quantity as a few numbers, under AIPerf's names."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from sun_sglang.bench.load.metrics.percentile import percentile
from sun_sglang.strict import Strict


class Distribution(Strict):
    """Values of one quantity.

    Attributes:
        unit: unit of all numbers but `count`.
        count: number of values.
        avg: the mean.
        std: the standard deviation of these values (divided by their number).
        min: the smallest value.
        max: the largest value.
        p50: the median; percentiles are interpolated linearly.
        p90: the 90th percentile.
        p95: the 95th percentile.
        p99: the 99th percentile.
    """

    unit: str
    count: int
    avg: float
    std: float
    min: float
    max: float
    p50: float
    p90: float
    p95: float
    p99: float


def distribution(values: Iterable[float | None], unit: str) -> Distribution | None:
    """Return the distribution of the values that are not None; None where there are none."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    return Distribution(
        unit=unit,
        count=len(ordered),
        avg=statistics.fmean(ordered),
        std=statistics.pstdev(ordered),
        min=ordered[0],
        max=ordered[-1],
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
    )
