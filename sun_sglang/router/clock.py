"""A clock that stops while the event loop does not run. Deadlines for workers and clients are measured on it.

A process may be paused by SIGSTOP, a suspended machine, the migration of a virtual machine, or a callback that blocks
the loop. On another clock every deadline would have passed after a pause, although no worker was late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

TICK_S = 0.5
# A tick that is late by more than this means that the loop was paused; a busy loop is late by less.
PAUSE_S = 0.5
# An event loop's timers may fire this much early.
_RESOLUTION_S = 0.002


class Loop(Protocol):
    """The part of an event loop that the clock uses."""

    def time(self) -> float:
        """Return monotonic time in seconds."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Call a function after `delay` seconds."""


class Clock:
    """Measures the time for which the event loop ran.

    Args:
        loop: the running event loop.
        on_pause: called with the seconds of each pause.
    """

    def __init__(self, loop: Loop, on_pause: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_pause = on_pause
        self._paused = 0.0
        self._due = loop.time() + TICK_S
        self._handle = loop.call_later(TICK_S, self._tick)

    def now(self) -> float:
        """Return the seconds for which the loop ran since an arbitrary start."""
        at = self._loop.time()
        late = at - self._due
        if late > PAUSE_S:
            # the first call after a pause: other callbacks may run before the tick
            self._paused += late
            self._due = at
            self._on_pause(late)
        return at - self._paused

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call a function once the loop has run for `seconds`."""
        return Timer(self, self._loop, seconds, callback)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Cancel the block once the loop has run for `seconds`.

        Raises:
            TimeoutError: the block was cancelled by the timeout.
        """
        async with asyncio.timeout(None) as scope:
            timer = self.call_later(seconds, lambda: scope.reschedule(self._loop.time()))
            try:
                yield
            finally:
                timer.cancel()

    def close(self) -> None:
        """Stop the clock's own timer."""
        self._handle.cancel()

    def _tick(self) -> None:
        self.now()
        self._due = self._loop.time() + TICK_S
        self._handle = self._loop.call_later(TICK_S, self._tick)


class Timer:
    """One pending call, which `Clock.call_later` returns.

    Args:
        clock: measures the delay.
        loop: the running event loop.
        seconds: the delay.
        callback: is called once.
    """

    __slots__ = ("_callback", "_clock", "_due", "_handle", "_loop")

    def __init__(self, clock: Clock, loop: Loop, seconds: float, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._loop = loop
        self._callback = callback
        self._due = clock.now() + seconds
        self._handle = loop.call_later(seconds, self._fire)

    def cancel(self) -> None:
        """Cancel the call."""
        self._handle.cancel()

    def _fire(self) -> None:
        left = self._due - self._clock.now()
        if left > _RESOLUTION_S:
            self._handle = self._loop.call_later(left, self._fire)
        else:
            self._callback()
