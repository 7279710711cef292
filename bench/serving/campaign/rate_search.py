"""The search for the highest rate at which enough requests are within the objectives. Pure.

It assumes that a higher rate is never better: what a rate does not reach, no higher rate reaches. It doubles or halves
the rate until the limit is between two rates, and then takes their geometric mean until they are 5 % apart.
"""

from __future__ import annotations

import math

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.serving.run_report import RunReport

MOST_STEPS = 16
"""The most rates that a search tries."""

PRECISION = 1.05
"""The ratio of the two rates between which the limit lies, at which a search ends."""

_REACHED = 0.9


class RateSearch:
    """One search.

    Args:
        first: the rate to start with.
        least: the lowest rate to halve to.

    Attributes:
        max_rate: the highest rate that was within the objectives; None before there is one.
        failed_rate: the lowest rate that was not; None before there is one.
        steps: rates that were tried.
    """

    def __init__(self, first: float, *, least: float = 0.0) -> None:
        self._first = first
        self._least = least
        self.max_rate: float | None = None
        self.failed_rate: float | None = None
        self.steps = 0

    @property
    def next_rate(self) -> float | None:
        """The rate to try; None where the search has ended."""
        low, high = self.max_rate, self.failed_rate
        if self.steps >= MOST_STEPS:
            return None
        if low is None and high is None:
            return self._first
        if high is None:
            assert low is not None
            return 2 * low
        if low is None:
            return high / 2 if high / 2 >= self._least else None
        return None if high / low <= PRECISION else _rounded(math.sqrt(low * high))

    def note(self, rate: float, *, within: bool) -> None:
        """Note the outcome of a rate, and of all rates on its other side."""
        self.steps += 1
        if within:
            self.max_rate = rate if self.max_rate is None else max(self.max_rate, rate)
        else:
            self.failed_rate = rate if self.failed_rate is None else min(self.failed_rate, rate)


def is_within(run: RunReport, ratio: float) -> bool:
    """Return whether a rate is within the objectives.

    Enough of the requests that ended in the window were good, and the system kept up: at least 90 % of the requests, or
    sessions, that were due in the window ended whole in it. An overloaded system has a queue that grows, and the
    requests in it have not ended.

    Args:
        run: the run at the rate.
        ratio: the share that is enough.
    """
    good, achieved = run.total.good_request_ratio, run.achieved_ratio
    if good is None or achieved is None or run.ending is Ending.TARGET_FAILED:
        return False
    return good >= ratio and achieved >= _REACHED


def is_the_clients_fault(run: RunReport) -> bool:
    """Return whether a run is not valid for a reason that is not the system's, so that it says nothing about a rate."""
    return not run.valid and run.ending is not Ending.TARGET_FAILED and run.total.request_count > 0


def _rounded(rate: float) -> float:
    """Return a rate with four significant digits."""
    return float(f"{rate:.4g}")
