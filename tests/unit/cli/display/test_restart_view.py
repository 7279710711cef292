"""What `sun workers restart` shows."""

from __future__ import annotations

import io

from rich.console import Console

from sun_sglang.cli.display.restart_view import RestartView, describe_end, describe_step
from sun_sglang.launch.rolling_restart.messages import Failure, Outcome, Progress, Restarted, Step

STEP = Progress(worker="d0", number=1, of=2, step=Step.DRAIN, in_flight=3)
DONE = Restarted(worker="d0", seconds={Step.DRAIN: 0.5, Step.STOP: 1.0, Step.START: 9.5, Step.CANARY: 1.0})


def test_step_is_described_with_its_requests_while_it_drains() -> None:
    assert describe_step(STEP) == "d0 (1 of 2): draining, 3 requests in flight"
    assert describe_step(STEP.model_copy(update={"step": Step.START})) == "d0 (1 of 2): starting"


def test_view_prints_a_line_for_each_worker_and_nothing_else_where_there_is_no_terminal() -> None:
    output = io.StringIO()
    with RestartView(Console(file=output, width=200)) as view:
        for event in (STEP, DONE, DONE.model_copy(update={"drained": True}), Outcome(restarted=(DONE,))):
            view.show(event)
    assert view.last == STEP
    assert output.getvalue().splitlines() == [
        "d0: serves again after 12.0 s (drain 0.5, stop 1.0, start 9.5, canary 1.0)",
        "d0: runs again, drained as before, after 12.0 s (drain 0.5, stop 1.0, start 9.5, canary 1.0)",
    ]


def test_view_on_a_terminal_shows_the_present_step() -> None:
    output = io.StringIO()
    with RestartView(Console(file=output, width=200, force_terminal=True)) as view:
        view.show(STEP)
        view.note("a line")
    assert "draining, 3 requests in flight" in output.getvalue()
    assert "a line" in output.getvalue()


def test_end_names_the_worker_that_failed_and_those_that_are_left() -> None:
    failed = Failure(worker="d1", step=Step.START, reason="out of memory")
    assert describe_end(Outcome(restarted=(DONE,))) == ""
    # it was cancelled when no worker was left
    assert describe_end(Outcome(restarted=(DONE,), cancelled=True)) == ""
    assert describe_end(Outcome(restarted=(), left=("d0", "d1"), cancelled=True)) == (
        "ended on request; restarted: none; not touched: d0, d1 (`sun workers restart NAME` restarts one)"
    )
    assert describe_end(Outcome(restarted=(DONE,), failed=failed, left=("d2",))) == (
        "`d1` (start): out of memory\n"
        "Restarted before it: d0; not touched: d2 (`sun workers restart NAME` restarts one)"
    )
