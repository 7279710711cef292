"""Keeps one process running: starts it, waits for its end, starts it again after a pause that grows.

A process that refuses to run is not started again.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sun_sglang.errors import END_MARK, REFUSED, LaunchError
from sun_sglang.launch.starters import RefusedError, Running
from sun_sglang.launch.state import Phase, ProcessState

_LONGEST_PAUSE = 30.0
_STEADY_AFTER = 60.0


def pause_before(failures: int) -> float:
    """Seconds to wait before the start that follows `failures` (at least 1) early ends in a row."""
    return float(min(_LONGEST_PAUSE, 0.5 * 2 ** (failures - 1)))


def describe_end(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class Keeper:
    """One process, kept.

    Args:
        state: what it is called and where it is.
        start: starts it; called with the number of restarts so far.
        changed: called after every change of `state`.
    """

    def __init__(
        self,
        state: ProcessState,
        start: Callable[[int], Awaitable[Running]],
        changed: Callable[[], None],
    ) -> None:
        self.state = state
        self.early_ends = 0
        self.refusal: str | None = None
        self._start = start
        self._changed = changed
        self._running: Running | None = None
        self._stopping = asyncio.Event()
        self._grace = 0.0

    async def run(self) -> None:
        """Keep it running until `stop`, or until it refuses to run."""
        while not self._stopping.is_set():
            began = time.monotonic()
            end = await self._run_once()
            if self._stopping.is_set():
                break
            if self.refusal is not None:
                self._set(phase=Phase.FAILED, pid=0, detail=self.refusal)
                return
            self.early_ends = 1 if time.monotonic() - began > _STEADY_AFTER else self.early_ends + 1
            self._set(phase=Phase.RESTARTING, pid=0, detail=end, restarts=self.state.restarts + 1)
            await self._pause(pause_before(self.early_ends))
        self._set(phase=Phase.STOPPED, pid=0)

    async def stop(self, grace: float) -> None:
        """End it: SIGTERM, and SIGKILL after `grace` seconds. What is just being started is ended by `run`."""
        self._grace = grace
        self._stopping.set()
        if self._running is not None:
            await self._end(self._running)

    def log_tail(self, lines: int = 20) -> str:
        """The end of its output."""
        return tail(self.state.log, lines)

    async def _run_once(self) -> str:
        try:
            running = await self._start(self.state.restarts)
        except RefusedError as e:
            self.refusal = str(e)
            return self.refusal
        except (LaunchError, OSError) as e:
            # no process, descriptor or disk space left: tried again like any other early end
            return str(e)
        self._running = running
        self._set(phase=Phase.RUNNING, pid=running.pid)
        if self._stopping.is_set():
            await self._end(running)
        status = await running.wait()
        self._running = None
        if status == REFUSED:
            self.refusal = last_reason(self.state.log) or describe_end(status)
        return describe_end(status)

    async def _end(self, running: Running) -> None:
        self._set(phase=Phase.STOPPING)
        running.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._grace):
                await running.wait()
        except TimeoutError:
            running.send(signal.SIGKILL)
            await running.wait()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _set(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)
        self._changed()


def last_reason(log: Path) -> str:
    """Return the last reason to end that a worker wrote to its log; empty if there is none."""
    reasons = [line for line in tail(log, 200).splitlines() if line.startswith(END_MARK)]
    return reasons[-1].removeprefix(END_MARK) if reasons else ""


def tail(path: Path, lines: int) -> str:
    """The last lines of a file; empty if there is no such file."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
