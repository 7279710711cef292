"""Arrivals: mean rates, the spread of the gaps, ramps."""

from __future__ import annotations

import math
from itertools import islice, pairwise, takewhile
from random import Random
from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.bench.load.workload.arrivals import Pattern, allowed_concurrency, arrivals, mean_arrivals

PATTERNS = st.sampled_from(["poisson", "constant", "gamma"])


def gaps(pattern: Pattern, rate: float, smoothness: float = 1.0, number: int = 20_000) -> list[float]:
    times = [0.0, *islice(arrivals(rate, pattern, Random(1), smoothness=smoothness), number)]
    return [later - earlier for earlier, later in pairwise(times)]


@settings(derandomize=True, max_examples=30, deadline=None)
@given(PATTERNS, st.floats(0.01, 1000), st.floats(0.1, 20))
def test_arrivals_of_any_pattern_have_the_mean_rate(pattern: Pattern, rate: float, smoothness: float) -> None:
    # 20,000 gaps with a coefficient of variation of at most sqrt(10): a standard error of 2.3 %
    assert fmean(gaps(pattern, rate, smoothness)) == pytest.approx(1 / rate, rel=0.09)


@pytest.mark.parametrize("smoothness", [0.25, 1, 4])
def test_arrivals_of_gamma_spread_as_the_smoothness_says(smoothness: float) -> None:
    drawn = gaps("gamma", 10, smoothness)
    assert pstdev(drawn) / fmean(drawn) == pytest.approx(1 / math.sqrt(smoothness), rel=0.05)


def test_arrivals_of_constant_are_multiples_of_the_gap() -> None:
    assert list(islice(arrivals(4, "constant", Random(1)), 4)) == [0.25, 0.5, 0.75, 1.0]


def test_arrivals_of_poisson_have_exponential_gaps() -> None:
    drawn = gaps("poisson", 2)
    for quantile in (0.1, 0.5, 0.9):
        below = sum(gap < -math.log(1 - quantile) / 2 for gap in drawn) / len(drawn)
        assert below == pytest.approx(quantile, abs=0.01)


@settings(derandomize=True, max_examples=50)
@given(PATTERNS, st.floats(0.5, 100), st.floats(0.1, 10), st.floats(0, 20))
def test_arrivals_with_a_ramp_come_in_order(pattern: Pattern, rate: float, smoothness: float, ramp: float) -> None:
    times = list(islice(arrivals(rate, pattern, Random(3), smoothness=smoothness, ramp=ramp), 200))
    assert times == sorted(times)
    assert times[0] >= 0


@pytest.mark.parametrize("pattern", ["poisson", "constant"])
@pytest.mark.parametrize("duration", [5, 10, 30])
def test_arrivals_with_a_ramp_number_the_area_below_the_rate(pattern: Pattern, duration: float) -> None:
    mean = mean_arrivals(1000, 10, duration)
    assert mean == {5: 1250, 10: 5000, 30: 25_000}[duration]
    number = sum(1 for _ in takewhile(lambda time: time < duration, arrivals(1000, pattern, Random(2), ramp=10)))
    assert number == pytest.approx(mean, abs=5 * math.sqrt(mean) if pattern == "poisson" else 1)


def test_arrivals_at_another_rate_keep_their_sequence_of_gaps() -> None:
    slow, fast = gaps("gamma", 1, 0.5, 100), gaps("gamma", 8, 0.5, 100)
    assert slow == pytest.approx([8 * gap for gap in fast])


@pytest.mark.parametrize(
    ("elapsed", "concurrency", "ramp", "allowed"),
    [
        (0, 8, 0, 8),
        (0, 8, 7, 1),
        (1, 8, 7, 2),
        (6.9, 8, 7, 7),
        (7, 8, 7, 8),
        (100, 8, 7, 8),
        (0, 1, 5, 1),
        (-1, 4, 5, 1),
    ],
)
def test_allowed_concurrency_grows_from_one(elapsed: float, concurrency: int, ramp: float, allowed: int) -> None:
    assert allowed_concurrency(elapsed, concurrency, ramp) == allowed
