from __future__ import annotations

import math

import pytest

from sun_sglang.errors import RecipeError
from sun_sglang.train.rate_search import RateSearch


def test_add_reports_whether_the_rate_is_now_the_best() -> None:
    search = RateSearch()
    assert [search.add(rate, loss) for rate, loss in ((0.1, 3.0), (0.2, 1.0), (0.3, 2.0))] == [True, True, False]
    assert search.best == 0.2
    assert search.losses == {0.1: 3.0, 0.2: 1.0, 0.3: 2.0}


def test_best_of_equal_losses_is_the_rate_that_was_tried_first() -> None:
    search = RateSearch()
    assert search.add(0.2, 1.0)
    assert not search.add(0.1, 1.0)
    assert search.best == 0.2


def test_search_that_resumes_compares_with_the_losses_it_was_given() -> None:
    search = RateSearch({0.1: 1.0})
    assert not search.add(0.2, 2.0)
    assert search.best == 0.1


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_rate_that_diverged_is_never_the_best(lost: float) -> None:
    search = RateSearch()
    assert not search.add(0.1, lost)
    assert search.add(0.2, 3.0)
    assert not search.add(0.3, lost)
    assert search.best == 0.2


def test_search_in_which_every_rate_diverged_is_an_error_that_names_them() -> None:
    search = RateSearch({0.1: math.nan, 0.2: math.inf})
    with pytest.raises(
        RecipeError, match=r"diverged with every rate that was tried \(0\.1, 0\.2\); give smaller rates"
    ):
        _ = search.best
