from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.client.record import Failure, RequestRecord
from sun_sglang.bench.load.metrics.summary import Workers, fairness, summarise
from sun_sglang.bench.load.metrics.window import Window

WINDOW = Window(10.0, 20.0)


def record(sent: float, arrivals: list[float], ended: float | None = None, **more: Any) -> RequestRecord:
    """Return a request whose tokens arrive one by one."""
    values: dict[str, Any] = {
        "index": 0,
        "task": "a",
        "wanted_tokens": len(arrivals),
        "due": sent,
        "sent": sent,
        "first": arrivals[0] if arrivals else None,
        "last": arrivals[-1] if arrivals else None,
        "ended": ended,
        "arrivals": array("d", arrivals),
        "arrived": array("i", [1] * len(arrivals)),
        "prompt_tokens": 8,
        "output_tokens": len(arrivals),
    }
    return RequestRecord(**(values | more))


def test_summary_has_hand_computed_values() -> None:
    records = [
        # sent in the warm-up, completed in the window: its latencies count, and it was not offered in the window
        record(8.0, [9.0, 9.5, 11.0], 11.0, cached_tokens=4),
        # due in the warm-up, and sent late
        record(12.0, [12.5, 12.6], 12.7, due=9.5),
        # fails in the window; its token arrived
        record(13.0, [13.5], 14.0, failure=Failure("stream", "cut")),
        # completed in the warm-up, and after the window
        record(1.0, [2.0, 3.0], 3.0),
        record(19.0, [19.5, 20.5], 20.5),
        # runs when the run ends
        record(19.5, [19.9], None),
    ]
    found = summarise(records, WINDOW, objectives={"time_to_first_token": 600.0}, workers=Workers(total=4, decode=2))
    assert (found.request_count, found.error_request_count, found.offered_request_count) == (2, 1, 3)
    assert found.achieved_ratio == pytest.approx(2 / 3)
    assert found.request_throughput == 0.2
    assert found.output_token_throughput == 0.5
    # 11.0; 12.5, 12.6; 13.5; 19.5; 19.9
    assert found.arrived_token_throughput == pytest.approx(0.6)
    assert found.total_token_throughput == pytest.approx(2.1)
    assert found.output_token_throughput_per_worker == pytest.approx(0.125)
    assert found.output_token_throughput_per_decode_worker == pytest.approx(0.25)
    assert values(found.time_to_first_token) == pytest.approx((500, 1000))
    assert values(found.inter_token_latency) == pytest.approx((100, 1000))
    assert values(found.inter_chunk_latency) == pytest.approx((100, 1500))
    assert values(found.request_latency) == pytest.approx((600, 3000))
    assert values(found.output_token_throughput_per_user) == pytest.approx((1, 10))
    assert found.interactivity == pytest.approx(1000 / 550)
    assert values(found.scheduled_time_to_first_token) == pytest.approx((1000, 3000))
    assert values(found.scheduled_request_latency) == pytest.approx((3000, 3100))
    assert values(found.input_sequence_length) == (8, 8)
    assert values(found.output_sequence_length) == (2, 3)
    # the second answer does not report its cached tokens: 0
    assert (found.cached_token_count, found.cache_hit_ratio) == (4, 0.25)
    assert (found.good_request_count, found.goodput) == (1, 0.1)
    assert found.good_request_ratio == pytest.approx(1 / 3)


def values(found: Any) -> tuple[float, float]:
    return found.min, found.max


def test_summary_of_a_closed_loop_counts_offered_by_sending_and_has_no_schedule() -> None:
    found = summarise([record(12.0, [13.0], 13.0, due=None), record(8.0, [12.0], 12.0, due=None)], WINDOW)
    assert (found.offered_request_count, found.achieved_ratio) == (1, 2.0)
    assert found.scheduled_time_to_first_token is found.scheduled_request_latency is None
    assert found.inter_token_latency is found.interactivity is found.output_token_throughput_per_user is None
    assert found.goodput is found.output_token_throughput_per_worker is found.cached_token_count is None


def test_summary_of_nothing_has_no_latencies() -> None:
    found = summarise([], WINDOW, objectives={"request_latency": 1.0})
    assert (found.request_count, found.achieved_ratio, found.time_to_first_token) == (0, None, None)
    assert (found.goodput, found.good_request_ratio, found.cache_hit_ratio) == (0, None, None)


def test_summary_tokens_that_arrive_at_once_have_no_speed() -> None:
    found = summarise([record(11.0, [12.0, 12.0, 12.0], 12.0)], WINDOW)
    assert found.inter_token_latency is not None
    assert found.inter_token_latency.avg == 0
    assert found.output_token_throughput_per_user is found.interactivity is None


def test_fairness_is_jains_index_of_achieved_by_offered() -> None:
    served = summarise([record(12.0, [13.0], 13.0)], WINDOW)
    starved = summarise([record(12.0, [13.0], 13.0), record(12.0, [], None)], WINDOW)
    idle = summarise([], WINDOW)
    assert fairness([served, served, idle]) == 1
    assert fairness([served, starved]) == pytest.approx(0.9)
    assert fairness([idle]) is None


@st.composite
def requests(draw: st.DrawFn) -> RequestRecord:
    times = sorted(draw(st.lists(st.floats(0, 30), min_size=1, max_size=8)))
    failed = draw(st.booleans())
    ends = draw(st.booleans())
    return record(
        times[0],
        times[1:],
        times[-1] if ends else None,
        task=draw(st.sampled_from("ab")),
        failure=Failure("timeout", "") if failed and ends else None,
    )


@given(st.lists(requests(), max_size=30))
def test_summary_of_all_is_the_sum_of_the_tasks(records: list[RequestRecord]) -> None:
    total = summarise(records, WINDOW)
    parts = [summarise([r for r in records if r.task == task], WINDOW) for task in "ab"]
    for count in ("request_count", "error_request_count", "offered_request_count"):
        assert getattr(total, count) == sum(getattr(part, count) for part in parts)
    for rate in ("request_throughput", "output_token_throughput", "arrived_token_throughput"):
        assert getattr(total, rate) == pytest.approx(sum(getattr(part, rate) for part in parts))


@given(requests())
def test_summary_latency_is_first_token_plus_the_rest(request: RequestRecord) -> None:
    request.ended, request.failure = 15.0, None
    found = summarise([request], WINDOW)
    if found.inter_token_latency and found.time_to_first_token and found.request_latency:
        rest = found.inter_token_latency.avg * (request.output_tokens - 1)
        assert found.request_latency.avg == pytest.approx(found.time_to_first_token.avg + rest, abs=1e-6)
