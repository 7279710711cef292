"""One number over repetitions."""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.bench.load.metrics.interval import Interval, median_interval


class Repeated(Interval):
    """The median of one number over repetitions, with its 95 % interval, and its least and largest value.

    Attributes:
        min: the least value.
        max: the largest value.
    """

    min: float
    max: float


def repeated(values: Sequence[float]) -> Repeated:
    """Return a number over repetitions.

    Args:
        values: one value of each repetition; at least one.
    """
    interval = median_interval(values)
    return Repeated(**interval.model_dump(), min=min(values), max=max(values))
