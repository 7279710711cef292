"""Percentiles by linear interpolation."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of values that are sorted.

    With `n` values, the percentile `p` is at position `(n - 1) * p / 100`, counted from 0, and between two values it is
    interpolated linearly: NumPy's method `linear`, and `statistics.quantiles(..., method="inclusive")`.

    Args:
        ordered: at least one value, ascending.
        percent: 0 to 100.
    """
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    if below + 1 >= len(ordered):
        return ordered[-1]
    low, high = ordered[below], ordered[below + 1]
    return low + (high - low) * (position - below)
