from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import pytest

from sun_sglang.bench.load.client.record import Failure, RequestRecord
from sun_sglang.bench.load.metrics.sessions import SessionMetrics, summarise_sessions
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.agents.workflow import Workflow

WINDOW = Window(10.0, 20.0)
# two agents would be one turn
FLOW = Workflow(agents=1, turns=2, initial_tokens=100, appended_tokens=0, output_tokens=1)


def call(session: int, number: int, sent: float, last: float | None, **more: Any) -> RequestRecord:
    """Return a call of one output token; `last` is None while it runs."""
    values: dict[str, Any] = {
        "index": FLOW.calls * session + number,
        "task": "ab"[number],
        "wanted_tokens": 1,
        "due": None,
        "sent": sent,
        "first": last,
        "last": last,
        "ended": last,
        "prompt_tokens": 100,
        "output_tokens": 1,
        "session": session,
        "answer": array("i", [7]),
    }
    return RequestRecord(**(values | more))


def summary(*records: RequestRecord, due: list[float] | None = None) -> SessionMetrics:
    return summarise_sessions(records, WINDOW, FLOW, due=due)


def test_sessions_have_hand_computed_values() -> None:
    found = summary(
        # began in the warm-up, and ends in the window
        call(0, 0, 8.0, 9.0, due=7.0),
        call(0, 1, 9.0, 12.0, cached_tokens=60),
        # began late, after it had waited for a slot
        call(1, 0, 13.0, 14.0, due=11.0, cached_tokens=0),
        call(1, 1, 14.0, 15.0, cached_tokens=90),
        # ends after the window
        call(2, 0, 16.0, 17.0, due=16.0, cached_tokens=30),
        call(2, 1, 17.0, 21.0),
        # its second call fails
        call(3, 0, 17.0, 18.0, due=17.0, cached_tokens=0),
        call(3, 1, 18.0, 19.0, failure=Failure("http_503", "full")),
        # ended in the warm-up
        call(4, 0, 1.0, 2.0, due=1.0),
        call(4, 1, 2.0, 3.0),
        # the first of two calls ran at the end of the run
        call(5, 0, 19.0, None, due=18.5),
        # the last one was never started: all slots were taken
        due=[7.0, 11.0, 16.0, 17.0, 1.0, 18.5, 19.0],
    )
    assert (found.session_count, found.error_session_count) == (2, 1)
    assert (found.offered_session_count, found.started_session_count) == (5, 4)
    assert found.achieved_ratio == pytest.approx(2 / 5)
    assert (found.offered_session_rate, found.started_session_rate, found.session_throughput) == (0.5, 0.4, 0.2)
    assert found.session_latency is not None
    assert (found.session_latency.min, found.session_latency.max) == (2000, 4000)
    assert found.scheduled_session_latency is not None
    assert (found.scheduled_session_latency.min, found.scheduled_session_latency.max) == (4000, 5000)
    assert found.stand_in_count == 0
    first, second = found.turns
    # sessions 1, 2 and 3; 0 and 1: the other calls ended outside of the window, failed, or run
    assert (first.turn, first.request_count, first.cached_token_count) == (0, 3, 30)
    assert (second.turn, second.request_count, second.cached_token_count) == (1, 2, 150)
    assert (first.cache_hit_ratio, second.cache_hit_ratio) == (pytest.approx(0.1), 0.75)
    assert second.time_to_first_token is not None
    assert second.time_to_first_token.max == 3000
    assert first.input_sequence_length is not None
    assert first.input_sequence_length.avg == 100


def test_sessions_of_a_closed_loop_are_offered_when_they_start_and_have_no_schedule() -> None:
    found = summary(call(0, 0, 11.0, 12.0), call(0, 1, 12.0, 13.0), call(1, 0, 13.0, 14.0), call(1, 1, 14.0, 25.0))
    assert (found.offered_session_count, found.started_session_count, found.session_count) == (2, 2, 1)
    assert found.achieved_ratio == 0.5
    assert found.scheduled_session_latency is None


def test_sessions_next_to_requests_without_a_session_leave_these_out() -> None:
    found = summary(call(0, 0, 11.0, 12.0), call(0, 1, 12.0, 13.0), replace(call(0, 0, 11.0, 12.0), session=None))
    assert found.session_count == 1
    assert [turn.request_count for turn in found.turns] == [1, 1]


@pytest.mark.parametrize("answer", [None, array("i"), array("i", [1, 2])])
def test_sessions_count_answers_that_the_next_prompt_lacks(answer: Any) -> None:
    records = [call(0, 0, 11.0, 12.0, answer=answer), call(0, 1, 12.0, 13.0)]
    assert summary(*records).stand_in_count == 1
    # a request that failed has no next prompt
    assert summary(call(0, 0, 11.0, 12.0, answer=answer, failure=Failure("timeout", ""))).stand_in_count == 0


def test_sessions_of_nothing_have_no_latencies() -> None:
    found = summary(due=[])
    assert (found.session_count, found.achieved_ratio, found.session_latency, found.turns) == (0, None, None, ())


def test_sessions_without_reported_hits_have_no_hit_ratio() -> None:
    (turn, _) = summary(call(0, 0, 11.0, 12.0), call(0, 1, 12.0, 13.0)).turns
    assert (turn.cached_token_count, turn.cache_hit_ratio) == (None, None)


def test_sessions_of_several_agents_have_all_of_their_calls_in_a_turn() -> None:
    flow = Workflow(agents=2, turns=2, initial_tokens=100, appended_tokens=0, output_tokens=1)
    calls = [call(0, 0, 11.0 + number, 12.0 + number, index=number) for number in range(4)]
    found = summarise_sessions(calls, WINDOW, flow, due=None)
    assert [(turn.turn, turn.request_count) for turn in found.turns] == [(0, 2), (1, 2)]
    assert found.session_count == 1
