"""When requests arrive: gaps between arrivals, and ramps.

A pattern draws gaps of mean 1; the rate, also one that grows, only maps this time to seconds. So the same seed gives
the same sequence of gaps at every rate. During a ramp the mean number of arrivals is the area below the rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Literal

Pattern = Literal["poisson", "constant", "gamma"]


def arrivals(
    rate: float, pattern: Pattern, rng: Random, *, smoothness: float = 1.0, ramp: float = 0.0
) -> Iterator[float]:
    """Yield the times of arrival, in seconds after the start, without end.

    Args:
        rate: arrivals per second, after the ramp.
        pattern: distribution of the gaps: exponential, constant, or gamma.
        rng: the stream of the gaps.
        smoothness: shape of the gamma distribution: 1 is Poisson, less is burstier, more is smoother. The coefficient
            of variation of the gaps is `1 / sqrt(smoothness)`.
        ramp: seconds in which the rate grows linearly from 0.
    """
    passed = 0.0
    while True:
        if pattern == "constant":
            passed += 1.0
        elif pattern == "poisson":
            passed += rng.expovariate(1.0)
        else:
            passed += rng.gammavariate(smoothness, 1.0 / smoothness)
        yield _seconds(passed, rate, ramp)


def _seconds(passed: float, rate: float, ramp: float) -> float:
    """Return the time at which `passed` arrivals are due on average."""
    during_ramp = rate * ramp / 2
    if passed < during_ramp:
        return math.sqrt(2 * ramp * passed / rate)
    return passed / rate + ramp / 2


def mean_arrivals(rate: float, ramp: float, duration: float) -> float:
    """Return the mean number of arrivals before `duration` seconds, which may end within the ramp."""
    if duration < ramp:
        return rate * duration**2 / (2 * ramp)
    return rate * (duration - ramp / 2)


def allowed_concurrency(elapsed: float, concurrency: int, ramp: float) -> int:
    """Return how many requests may be in flight: from 1 at the start to `concurrency` after `ramp` seconds."""
    if elapsed >= ramp:
        return concurrency
    return 1 + math.floor((concurrency - 1) * max(elapsed, 0.0) / ramp)
