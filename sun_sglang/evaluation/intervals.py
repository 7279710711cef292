"""95 % intervals of proportions and means."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

_Z95 = 1.959963984540054


class Interval(NamedTuple):
    """Both ends of a 95 % interval, in the unit of the value."""

    low: float
    high: float


def wilson(correct: int, total: int) -> Interval:
    """Return Wilson's score interval of a proportion (Wilson 1927), from 0 to 1; also valid for 0 % and 100 %."""
    assert 0 <= correct <= total
    assert total > 0
    p, z2 = correct / total, _Z95**2
    middle = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    # rounding can put an end beyond a proportion of 0 or 1
    return Interval(max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)))


def normal(mean: float, stderr: float) -> Interval:
    """Return the interval of a mean with a known standard error, for scores other than right or wrong."""
    return Interval(mean - _Z95 * stderr, mean + _Z95 * stderr)
