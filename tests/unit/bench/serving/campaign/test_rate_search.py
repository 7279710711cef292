from __future__ import annotations

import pytest

from sun_sglang.bench.load.metrics.sessions import summarise_sessions
from sun_sglang.bench.load.workload.agents.workflow import REACT
from sun_sglang.bench.serving.campaign.rate_search import MOST_STEPS, PRECISION, RateSearch, is_within
from tests.support.bench_campaign import WINDOW, finished_run


def search(limit: float, first: float = 1.0) -> tuple[RateSearch, list[float]]:
    """Search the highest rate of a system that carries `limit` requests per second."""
    found, tried = RateSearch(first), list[float]()
    while (rate := found.next_rate) is not None:
        tried.append(rate)
        found.note(rate, within=rate <= limit)
    return found, tried


@pytest.mark.parametrize("limit", [0.013, 0.3, 1.0, 1.04, 7.7, 100.0, 600.0])
@pytest.mark.parametrize("first", [0.5, 1.0, 40.0])
def test_search_ends_within_its_precision_of_the_limit(limit: float, first: float) -> None:
    found, tried = search(limit, first)
    assert len(tried) <= MOST_STEPS
    assert len(set(tried)) == len(tried)
    assert found.max_rate is not None
    assert found.max_rate <= limit
    assert found.failed_rate is not None
    assert found.failed_rate > limit
    assert found.failed_rate / found.max_rate <= PRECISION or len(tried) == MOST_STEPS


def test_search_of_a_system_that_carries_nothing_ends_without_a_rate() -> None:
    found, tried = search(0.0)
    assert (found.max_rate, len(tried)) == (None, MOST_STEPS)
    assert tried == sorted(tried, reverse=True)


def test_search_of_a_system_without_a_limit_ends_with_its_last_rate() -> None:
    found, tried = search(float("inf"))
    assert (found.max_rate, found.failed_rate) == (2.0 ** (MOST_STEPS - 1), None)
    assert tried == sorted(tried)


def test_search_does_not_go_below_its_least_rate() -> None:
    found = RateSearch(1.0, least=0.3)
    tried = []
    while (rate := found.next_rate) is not None:
        tried.append(rate)
        found.note(rate, within=False)
    assert (tried, found.max_rate) == ([1.0, 0.5], None)


def test_rate_of_sessions_is_carried_where_enough_of_these_were_completed() -> None:
    """All requests but a session's first are sent when its last one ended: their share is 1 in any overload."""
    run = finished_run(0, 10)
    good = run.model_copy(update={"total": run.total.model_copy(update={"good_request_ratio": 1.0})})
    assert is_within(good, 0.95)
    few = summarise_sessions([], WINDOW, REACT, due=[1.0] * 10).model_copy(update={"achieved_ratio": 0.5})
    assert not is_within(good.model_copy(update={"sessions": few}), 0.95)
    most = few.model_copy(update={"achieved_ratio": 0.9})
    assert is_within(good.model_copy(update={"sessions": most}), 0.95)
