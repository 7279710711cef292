"""Rank Zipf over the tasks: its probabilities, its draws, and the shift of the hot task."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.bench.load.workload.popularity import Popularity, zipf_probabilities
from tests.support.chi_square import assert_counts_match

DRAWS = 20_000


@given(st.integers(1, 400), st.floats(0, 20))
def test_zipf_probabilities_of_any_exponent_follow_the_law(tasks: int, alpha: float) -> None:
    probabilities = zipf_probabilities(tasks, alpha)
    assert math.isclose(math.fsum(probabilities), 1)
    for rank, probability in enumerate(probabilities, 1):
        assert math.isclose(probability, probabilities[0] * rank**-alpha)


def test_zipf_probabilities_of_four_tasks_are_exact() -> None:
    assert zipf_probabilities(4, 0) == [0.25] * 4
    assert zipf_probabilities(4, 1) == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])
    assert zipf_probabilities(3, 1e9) == [1, 0, 0]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(1, 50), st.floats(0, 4), st.integers(0, 60))
def test_popularity_draws_match_the_probabilities(tasks: int, alpha: float, shifts: int) -> None:
    popularity = Popularity(tasks, alpha, shift_every=10)
    rng = Random(1)
    counts = [0] * tasks
    for _ in range(DRAWS):
        counts[popularity.task(rng.random(), 10 * shifts + 5)] += 1
    assert_counts_match(counts, popularity.probabilities(10 * shifts + 5))


def test_popularity_draw_at_the_upper_end_is_the_last_rank() -> None:
    for tasks in range(1, 60):
        assert Popularity(tasks, 0.7).task(math.nextafter(1, 0), 0) == tasks - 1


@pytest.mark.parametrize(("elapsed", "hot"), [(0, 0), (9.99, 0), (10, 1), (29.9, 2), (30, 0), (40, 1)])
def test_popularity_shift_moves_the_head_to_the_next_task(elapsed: float, hot: int) -> None:
    popularity = Popularity(3, 2, shift_every=10)
    assert popularity.task(0.0, elapsed) == hot
    probabilities = popularity.probabilities(elapsed)
    assert probabilities.index(max(probabilities)) == hot
    assert probabilities[(hot + 1) % 3] == pytest.approx(probabilities[hot] / 4)
