"""The clock that stands still while the event loop does, over a loop that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sun_sglang.router.clock import Clock, Timer


class Handle:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class HandLoop:
    """A loop whose time a test moves; it calls due callbacks in order, as a loop does after a pause."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.at

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        self.handles.append(Handle(self.at + delay, callback))
        return self.handles[-1]  # type: ignore[return-value]  # the clock only cancels it

    def run(self, seconds: float, *, late: bool = False) -> None:
        """Let time pass; `late`: the loop is paused meanwhile, and calls everything at the end."""
        end = self.at + seconds
        if late:
            self.at = end
        while due := [h for h in self.handles if h.when <= end and not h.cancelled]:
            first = min(due, key=lambda h: h.when)
            self.handles.remove(first)
            self.at = max(self.at, first.when)
            first.callback()
        self.at = end


@pytest.fixture
def loop() -> HandLoop:
    return HandLoop()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def clock(loop: HandLoop, pauses: list[float]) -> Clock:
    return Clock(loop, pauses.append)


def test_clock_loop_runs_measures_its_time(loop: HandLoop, clock: Clock, pauses: list[float]) -> None:
    before = clock.now()
    loop.run(100)
    assert clock.now() - before == pytest.approx(100)
    assert pauses == []


def test_clock_loop_is_paused_stands_still(loop: HandLoop, clock: Clock, pauses: list[float]) -> None:
    loop.run(10)
    before = clock.now()
    loop.run(300, late=True)
    assert clock.now() - before <= 1
    assert len(pauses) == 1
    assert 299 <= pauses[0] <= 300


def test_clock_is_asked_before_its_tick_counts_a_pause_once(loop: HandLoop, clock: Clock, pauses: list[float]) -> None:
    """After a pause a loop may read its sockets before it looks at its timers."""
    before = clock.now()
    loop.at += 300
    assert clock.now() - before <= 1
    loop.run(0, late=True)
    assert clock.now() - before <= 1
    assert len(pauses) == 1


def test_timer_is_due_after_the_time_that_the_loop_ran(loop: HandLoop, clock: Clock) -> None:
    fired: list[float] = []
    clock.call_later(20, lambda: fired.append(loop.at))
    loop.run(10)
    loop.run(300, late=True)
    assert fired == []
    loop.run(8)
    assert fired == []
    loop.run(3)
    assert len(fired) == 1
    loop.run(100)
    assert len(fired) == 1


def test_timer_is_cancelled_never_fires(loop: HandLoop, clock: Clock) -> None:
    fired: list[float] = []
    timers: list[Timer] = [clock.call_later(20, lambda: fired.append(loop.at)) for _ in range(2)]
    timers[0].cancel()
    loop.run(15, late=True)
    timers[1].cancel()
    loop.run(100)
    assert fired == []


async def test_timeout_ends_its_block_and_no_other() -> None:
    clock = Clock(asyncio.get_running_loop(), lambda _: None)
    with pytest.raises(TimeoutError):
        async with clock.timeout(0.01):
            await asyncio.Event().wait()
    async with clock.timeout(60):
        await asyncio.sleep(0)
    clock.close()
