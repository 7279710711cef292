from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.metrics.distribution import distribution
from sun_sglang.bench.load.metrics.fairness import jain_index
from sun_sglang.bench.load.metrics.percentile import percentile

VALUES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200)


@given(VALUES, st.floats(0, 100))
def test_percentile_is_numpys_linear_percentile(values: list[float], percent: float) -> None:
    expected = float(np.percentile(values, percent, method="linear"))
    assert percentile(sorted(values), percent) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=200))
def test_percentile_is_the_inclusive_quantile_of_the_standard_library(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=100, method="inclusive")
    ours = [percentile(sorted(values), p) for p in range(1, 100)]
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_distribution_has_hand_computed_values_and_leaves_none_out() -> None:
    found = distribution([4.0, None, 1.0, 3.0, 2.0], "ms")
    assert found is not None
    assert found.model_dump() == pytest.approx(
        {
            "unit": "ms",
            "count": 4,
            "avg": 2.5,
            "std": 1.25**0.5,
            "min": 1,
            "max": 4,
            "p50": 2.5,
            "p90": 3.7,
            "p95": 3.85,
            "p99": 3.97,
        }
    )


def test_distribution_of_nothing_is_none() -> None:
    assert distribution([None], "ms") is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_jain_index_is_between_one_task_and_all(shares: list[float]) -> None:
    found = jain_index(shares)
    if found is not None:
        assert 1 / len(shares) - 1e-9 <= found <= 1 + 1e-9


def test_jain_index_of_known_shares() -> None:
    assert jain_index([0.5, 0.5, 0.5]) == 1
    assert jain_index([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain_index([1.0, 0.5]) == pytest.approx(0.9)
    assert jain_index([]) is jain_index([0.0]) is None
