"""Percentiles of any number of values in little memory."""

from __future__ import annotations

import math

_LEAST = 1e-6
# ratio of two neighbouring values that are told apart
_RATIO = 1.002
_LOG = math.log(_RATIO)


class Digest:
    """The distribution of positive values from a microsecond on; a percentile is within 0.1 % of the exact one."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        place = int(math.log(value / _LEAST) / _LOG) if value > _LEAST else 0
        self._counts[place] = self._counts.get(place, 0) + 1
        self.count += 1
        self.total += value

    @property
    def mean(self) -> float:
        """The mean; not a number without values."""
        return self.total / self.count if self.count else math.nan

    def percentile(self, percent: float) -> float:
        """Return the value below which so many percent of the values are; not a number without values."""
        if not self.count:
            return math.nan
        rank = (self.count - 1) * percent / 100
        seen = 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen > rank:
                return _LEAST * math.exp((place + 0.5) * _LOG)
        raise AssertionError("the counts add up")
