from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.load.client.record import Failure, RequestRecord
from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.metrics.distribution import distribution
from sun_sglang.bench.load.metrics.sessions import SessionMetrics, summarise_sessions
from sun_sglang.bench.load.metrics.summary import Metrics, summarise
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.agents.workflow import REACT
from sun_sglang.bench.serving.run_report import ClientReport
from sun_sglang.bench.serving.verdict import notes_of, problems_of


def metrics(done: int, *, offered: int | None = None, failed: int = 0) -> Metrics:
    records = [
        RequestRecord(
            i,
            "a",
            1,
            due=1.0,
            sent=1.0,
            first=2.0,
            last=2.0,
            ended=2.0 if i < done + failed else None,
            output_tokens=1,
            failure=Failure("timeout", "") if i < failed else None,
        )
        for i in range(offered or done + failed)
    ]
    return summarise(records, Window(0.0, 10.0))


def client(lag_ms: float = 1.0, cpu: float | None = 0.1) -> ClientReport:
    return ClientReport(cpu_share=cpu, lag=distribution([lag_ms] * 100, "ms"))


def stopped(ending: Ending, reason: str) -> StopSignal:
    stop = StopSignal()
    stop.stop(ending, reason)
    return stop


def test_run_with_a_client_that_kept_up_is_valid() -> None:
    assert problems_of(StopSignal(), client(25.0), metrics(1), max_lag=25.0) == ()
    assert problems_of(StopSignal(), ClientReport(cpu_share=None, lag=None), metrics(1), max_lag=25.0) == ()


def test_run_that_the_user_cut_short_is_valid_for_its_time() -> None:
    assert problems_of(stopped(Ending.CUT_SHORT, "Ctrl-C"), client(), metrics(1), max_lag=25.0) == ()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            (StopSignal(), client(25.1), metrics(1)),
            "this process was late: p99 25.1 ms, longest 25.1 ms, allowed 25 ms",
        ),
        ((StopSignal(), client(cpu=0.95), metrics(1)), "this process used 95% of a core"),
        ((StopSignal(), client(), metrics(0, offered=3)), "no request was completed in the window"),
        ((stopped(Ending.CLIENT_LATE, "6 s behind"), client(9e3), metrics(1)), "6 s behind"),
        ((stopped(Ending.TARGET_FAILED, "all failed"), client(), metrics(0, failed=2)), "all failed"),
    ],
)
def test_run_that_measured_something_else_has_one_problem(arguments: Any, problem: str) -> None:
    (found,) = problems_of(*arguments, max_lag=25.0)
    assert found.startswith(problem)


def notes(total: Metrics, *, open_loop: bool = True, prompts_differ: bool = True) -> tuple[str, ...]:
    return notes_of(total, open_loop=open_loop, prompts_differ=prompts_differ)


def test_notes_state_a_rate_that_was_not_reached_and_failures() -> None:
    assert notes(metrics(9, offered=10)) == ()
    assert notes(metrics(5, offered=10), open_loop=False) == ()
    (note,) = notes(metrics(5, offered=10))
    assert note.startswith("the load was not reached: 5 of the 10 requests that were due in the window (50%)")
    assert notes(metrics(9, failed=1)) == ("1 of 10 requests that ended in the window failed",)


def test_notes_state_hits_in_a_cache_that_an_earlier_run_filled() -> None:
    few, many = (
        metrics(10).model_copy(update={"cached_token_count": count, "cache_hit_ratio": 0.5}) for count in (20, 50)
    )
    assert notes(few) == notes(many, prompts_differ=False) == ()
    (note,) = notes(many)
    assert note.startswith("50% of the prompt tokens were in a cache, although no two prompts")
    assert "--prompt-seed" in note


def sessions(done: int, offered: int, stand_ins: int = 0) -> SessionMetrics:
    found = summarise_sessions([], Window(0.0, 10.0), REACT, due=[1.0] * offered)
    share = done / offered
    return found.model_copy(update={"session_count": done, "achieved_ratio": share, "stand_in_count": stand_ins})


def test_notes_of_sessions_state_the_sessions_that_were_reached() -> None:
    """Only a session's first request has a time, so the share of requests says nothing."""
    few = metrics(5, offered=10)
    assert notes_of(few, open_loop=True, prompts_differ=False, sessions=sessions(9, 10)) == ()
    assert notes_of(few, open_loop=False, prompts_differ=False, sessions=sessions(5, 10)) == ()
    (note,) = notes_of(few, open_loop=True, prompts_differ=False, sessions=sessions(5, 10))
    assert note.startswith("the load was not reached: 5 sessions were completed in the window, and 10 were due in it")


def test_notes_of_sessions_state_answers_that_were_not_continued() -> None:
    (note,) = notes_of(metrics(9), open_loop=True, prompts_differ=False, sessions=sessions(9, 9, 4))
    assert note.startswith("the server did not report the token ids of 4 answers")
