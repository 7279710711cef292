from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from sun_sglang.bench.load.client.endpoint import prepare
from sun_sglang.bench.load.drive.progress import Progress, counted
from sun_sglang.bench.load.drive.run import run_load
from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.metrics.window import Window
from tests.support.fake_target import FakeTarget, planned
from tests.support.manual_clock import ManualClock, settle

WINDOW = Window(10.0, 30.0)


class Run:
    """A run in the background, with what happened to its two coroutines."""

    def __init__(self, load: Coroutine[Any, Any, None], clock: ManualClock, *, ends_with_load: bool = False) -> None:
        self.clock, self.stop, self.cancelled = clock, StopSignal(), list[str]()
        self.task = asyncio.create_task(
            run_load(
                self._noted("load", load),
                self._noted("watch", asyncio.Event().wait()),
                WINDOW,
                clock,
                stop=self.stop,
                ends_with_load=ends_with_load,
            )
        )

    async def _noted(self, name: str, coroutine: Coroutine[Any, Any, object]) -> None:
        try:
            await coroutine
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise


async def forever() -> None:
    await asyncio.Event().wait()


async def test_run_window_that_is_over_cancels_what_is_in_flight() -> None:
    clock = ManualClock()
    run = Run(forever(), clock)
    await clock.advance(29.9)
    assert not run.task.done()
    await clock.advance(30)
    assert await run.task == WINDOW
    assert sorted(run.cancelled) == ["load", "watch"]
    assert run.stop.ending is Ending.COMPLETE


@pytest.mark.parametrize(("at", "expected"), [(20.0, Window(10.0, 20.0)), (4.0, Window(4.0, 4.0))])
async def test_run_that_is_stopped_ends_its_window_there(at: float, expected: Window) -> None:
    clock = ManualClock()
    run = Run(forever(), clock)
    await clock.advance(at)
    run.stop.stop(Ending.CUT_SHORT, "interrupted")
    run.stop.stop(Ending.CLIENT_LATE, "a later reason")
    assert await run.task == expected
    assert (run.stop.ending, run.stop.reason) == (Ending.CUT_SHORT, "interrupted")
    assert "load" in run.cancelled


async def test_run_load_that_ends_early_ends_the_window_only_where_it_was_a_number_of_requests() -> None:
    for ends_with_load, expected in ((True, Window(10.0, 12.0)), (False, WINDOW)):
        clock = ManualClock()
        run = Run(clock.sleep_until(12.0), clock, ends_with_load=ends_with_load)
        await clock.advance(12)
        assert run.task.done() is ends_with_load
        await clock.advance(30)
        assert await run.task == expected


async def test_run_defect_in_the_load_is_raised() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    clock = ManualClock()
    run = Run(broken(), clock)
    with pytest.raises(ZeroDivisionError):
        await run.task


def test_window_holds_its_start_and_not_its_end() -> None:
    assert [WINDOW.holds(t) for t in (None, 9.99, 10.0, 29.99, 30.0)] == [False, False, True, True, False]
    assert WINDOW.seconds == 20


async def test_progress_counts_what_was_sent_answered_and_failed() -> None:
    clock, progress, stop = ManualClock(), Progress(), StopSignal()
    target = FakeTarget(clock, lambda index: 1.0 if index < 3 else 9.0, failing=frozenset({1}))
    send = counted(target.send, progress, stop)
    sending = [asyncio.ensure_future(send(prepare(planned(i)))) for i in range(4)]
    await clock.advance(2)
    assert (progress.sent, progress.succeeded, progress.failed, progress.in_flight) == (4, 2, {"http_503": 1}, 1)
    assert progress.tokens == 6
    assert not stop.is_set
    await clock.advance(10)
    await asyncio.gather(*sending)


@pytest.mark.parametrize(("good", "ending"), [(None, Ending.TARGET_FAILED), (10, Ending.COMPLETE)])
async def test_progress_nothing_but_failures_stops_the_run_with_the_servers_reason(
    good: int | None, ending: Ending
) -> None:
    clock, stop = ManualClock(), StopSignal()
    target = FakeTarget(clock, lambda _: 0.0, failing=frozenset(range(60)) - {good})
    send = counted(target.send, Progress(), stop)
    for i in range(60):
        await send(prepare(planned(i)))
        await settle()
    assert stop.ending is ending
    if ending is Ending.TARGET_FAILED:
        assert stop.reason == "all of the first 50 requests failed; the last: http_503: full"
