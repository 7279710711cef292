"""Keeps one process running: starts it, waits for its end, starts it again after a pause that grows.

A process that refuses to run is not started again. An end before the process served is an early one: the next start
will probably end the same way, so its log's last lines are kept for whoever looks.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sun_sglang.errors import END_MARK, REFUSED, LaunchError
from sun_sglang.launch.places.local.remains import end_group
from sun_sglang.launch.places.local.start_methods import RefusedError, Running
from sun_sglang.launch.state import Phase, ProcessState

_LONGEST_PAUSE = 30.0
_LOG_END_LINES = 20
_LOG_END_BYTES = 1 << 16
_LOG_LINE_CHARACTERS = 500


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


class SupervisedProcess:
    """One process, kept.

    Args:
        state: what it is called and where it is.
        start: starts it; called with the number of restarts so far.
        changed: called after every change of `state`.
        clear: waits until what the last start held is free; called before every start but the first.
        steady_after: seconds after which it counts as serving, for a process that nobody calls `serves` for.
    """

    def __init__(
        self,
        state: ProcessState,
        start: Callable[[int], Awaitable[Running]],
        changed: Callable[[], None],
        *,
        clear: Callable[[], Awaitable[None]] | None = None,
        steady_after: float = math.inf,
    ) -> None:
        self.state = state
        self.early_ends = 0
        self.refusal: str | None = None
        self._start = start
        self._changed = changed
        self._clear = clear
        self._steady_after = steady_after
        self._running: Running | None = None
        self._group: int | None = None
        self._served = False
        self._incarnation = ""
        self._began = 0.0
        self._log_began = 0
        self._stopping = asyncio.Event()
        self._grace = 0.0

    async def run(self) -> None:
        """Keep it running until `stop`, or until it refuses to run."""
        while not self._stopping.is_set():
            self._began = time.monotonic()
            end = await self._run_once()
            if self._stopping.is_set():
                break
            if self.refusal is not None:
                self._set(phase=Phase.FAILED, pid=0, detail=self.refusal)
                return
            early = not self._served and not self._is_steady()
            self.early_ends = self.early_ends + 1 if early else 0
            log_end = tail(self.state.log, _LOG_END_LINES, self._log_began) if early else ""
            restarts = self.state.restarts + 1
            self._set(phase=Phase.RESTARTING, pid=0, detail=end, log_end=log_end, restarts=restarts)
            await self._pause(pause_before(max(1, self.early_ends)))
        self._set(phase=Phase.STOPPED, pid=0)

    def serves(self, incarnation: str) -> None:
        """Note that a start of it was proven; its end will be no early one.

        Args:
            incarnation: the start's own value. A report about the start before may come late: its value is known.
        """
        if self._running is None or incarnation == self._incarnation:
            return
        self._incarnation, self._served = incarnation, True
        self.early_ends = 0
        if self.state.log_end:
            self._set(log_end="")

    def settle(self) -> None:
        """Count it as serving if it has run for `steady_after` seconds."""
        if self._running is not None and self._is_steady():
            self.serves(str(self._running.pid))

    async def stop(self, grace: float) -> None:
        """End it: SIGTERM, and SIGKILL after `grace` seconds. What is just being started is ended by `run`."""
        self._grace = grace
        self._stopping.set()
        if self._running is not None:
            await self._end(self._running)

    async def _run_once(self) -> str:
        self._served = False
        self._log_began = _size(self.state.log)
        try:
            await self._free()
            if self._stopping.is_set():
                return ""
            running = await self._start(self.state.restarts)
        except RefusedError as e:
            self.refusal = str(e)
            return self.refusal
        except (LaunchError, OSError) as e:
            # no process, descriptor or disk space left: tried again like any other early end
            return str(e)
        self._running, self._group = running, running.pid
        self._set(phase=Phase.RUNNING, pid=running.pid)
        if self._stopping.is_set():
            await self._end(running)
        status = await running.wait()
        self._running = None
        if status == REFUSED:
            self.refusal = last_reason(self.state.log, self._log_began) or describe_end(status)
        try:
            await self._end_group()
        except LaunchError as e:
            return f"{describe_end(status)}; {e}"
        return describe_end(status)

    def _is_steady(self) -> bool:
        return time.monotonic() - self._began >= self._steady_after

    async def _free(self) -> None:
        """Wait until nothing of the last start is left, or until `stop`.

        Raises:
            LaunchError: a process of the last start does not end.
        """
        await self._end_group()
        if self.state.restarts and self._clear is not None:
            clearing, stopping = asyncio.ensure_future(self._clear()), asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait((clearing, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if clearing.done():
                clearing.result()
            clearing.cancel()

    async def _end_group(self) -> None:
        if self._group is not None:
            await end_group(self._group)
            self._group = None

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


def last_reason(log: Path, since: int = 0) -> str:
    """Return the last reason to end that a worker wrote to its log; empty if there is none.

    Args:
        log: its log.
        since: the byte at which its last start began.
    """
    reasons = [line for line in tail(log, 200, since).splitlines() if line.startswith(END_MARK)]
    return reasons[-1].removeprefix(END_MARK) if reasons else ""


def tail(path: Path, lines: int, since: int = 0) -> str:
    """Return the last lines of a file, each cut to 500 characters; empty if there is no such file.

    Args:
        path: the file.
        lines: how many at most.
        since: the byte before which nothing counts.
    """
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(since, _size(path) - _LOG_END_BYTES))
        found = file.read().decode(errors="replace").splitlines()[-lines:]
    return "\n".join(line[:_LOG_LINE_CHARACTERS] for line in found)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
