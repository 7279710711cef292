"""Confidence intervals of medians over repetitions, by bootstrap."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import product
from random import Random

from sun_sglang.bench.load.metrics.percentile import percentile
from sun_sglang.strict import Strict

_CONFIDENCE = 0.95
_MOST_RESAMPLES = 5_000


class Interval(Strict):
    """A median, or a ratio of two, with its 95 % interval.

    With three repetitions the interval reaches from the smallest to the largest value: so few cannot say more.

    Attributes:
        value: the median, or the ratio of two medians.
        low: lower end of the interval.
        high: upper end.
        repetitions: number of repetitions.
    """

    value: float
    low: float
    high: float
    repetitions: int


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median over repetitions.

    Args:
        values: one value of each repetition; at least one.
    """
    return _interval(len(values), lambda chosen: statistics.median([values[i] for i in chosen]))


def ratio_interval(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Return the ratio of two systems' medians. A repetition of both, measured in turn, is drawn as a pair.

    Args:
        values: one value of each repetition; at least one.
        baseline: those of the other system in the same repetitions; above 0.
    """
    pairs = list(zip(values, baseline, strict=True))

    def ratio(chosen: Sequence[int]) -> float:
        drawn = [pairs[i] for i in chosen]
        return statistics.median([value for value, _ in drawn]) / statistics.median([base for _, base in drawn])

    return _interval(len(pairs), ratio)


def _interval(count: int, statistic: Callable[[Sequence[int]], float]) -> Interval:
    """Return a statistic of `count` repetitions, and its percentile interval over resamples with replacement."""
    tail = 100 * (1 - _CONFIDENCE) / 2
    resampled = sorted(map(statistic, _resamples(count)))
    return Interval(
        value=statistic(range(count)),
        low=percentile(resampled, tail),
        high=percentile(resampled, 100 - tail),
        repetitions=count,
    )


def _resamples(count: int) -> list[tuple[int, ...]]:
    """Return all resamples where there are few, else random ones; the same each time."""
    if count**count <= _MOST_RESAMPLES:
        return list(product(range(count), repeat=count))
    rng = Random(0)
    return [tuple(rng.choices(range(count), k=count)) for _ in range(_MOST_RESAMPLES)]
