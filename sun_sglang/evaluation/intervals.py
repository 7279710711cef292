"""95 % intervals of what was counted or averaged."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

_Z95 = 1.959963984540054


class Interval(NamedTuple):
    """Both ends of a 95 % interval, in the unit of what it is of."""

    low: float
    high: float


def wilson(correct: int, total: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), within 0 and 1; also right where all or none are right."""
    assert 0 <= correct <= total
    assert total > 0
    p, z2 = correct / total, _Z95**2
    middle = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    # rounding may put an end past the proportion itself where that is 0 or 1
    return Interval(max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)))


def normal(mean: float, stderr: float) -> Interval:
    """The interval of a mean whose standard error is known, for scores that are not right or wrong."""
    return Interval(mean - _Z95 * stderr, mean + _Z95 * stderr)
