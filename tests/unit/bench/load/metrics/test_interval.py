from __future__ import annotations

import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.metrics.interval import median_interval, ratio_interval
from sun_sglang.bench.load.metrics.repeated import repeated

VALUES = st.lists(st.floats(1, 1e6), min_size=1, max_size=8)


@given(VALUES)
def test_interval_holds_the_median_and_lies_within_the_values(values: list[float]) -> None:
    found = median_interval(values)
    assert found.value == statistics.median(values)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)
    assert median_interval(values) == found


def test_interval_of_three_repetitions_reaches_from_the_smallest_to_the_largest() -> None:
    # 1 of 27 resamples is (a, a, a), 6 more have the median a: 7/27 lie there
    found = median_interval([35.9, 42.7, 44.6])
    assert (found.value, found.low, found.high, found.repetitions) == (42.7, 35.9, 44.6, 3)


def test_interval_of_one_repetition_is_its_value() -> None:
    found = median_interval([5.0])
    assert (found.low, found.value, found.high) == (5, 5, 5)


def test_interval_covers_the_true_median_about_as_often_as_it_states() -> None:
    rng = Random(1)
    covered = 0
    for _ in range(60):
        found = median_interval([rng.gauss(100, 5) for _ in range(15)])
        covered += found.low <= 100 <= found.high
    assert covered >= 51


def test_ratio_of_systems_that_move_together_is_exact() -> None:
    """A machine that slows both in one repetition does not widen the interval of their ratio."""
    baseline = [10.0, 20.0, 15.0]
    found = ratio_interval([25.0, 50.0, 37.5], baseline)
    assert (found.value, found.low, found.high) == (2.5, 2.5, 2.5)


@given(VALUES, st.floats(0.1, 10))
def test_ratio_of_a_scaled_system_is_the_scale(baseline: list[float], scale: float) -> None:
    found = ratio_interval([scale * value for value in baseline], baseline)
    assert found.value == pytest.approx(scale)
    assert found.low == pytest.approx(scale)
    assert found.high == pytest.approx(scale)


def test_ratio_of_different_numbers_of_repetitions_is_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratio_interval([1.0], [1.0, 2.0])


def test_repeated_has_median_interval_and_range() -> None:
    found = repeated([3.0, 1.0, 2.0])
    assert (found.value, found.min, found.max, found.repetitions) == (2.0, 1.0, 3.0, 3)
    assert (found.low, found.high) == (1.0, 3.0)
