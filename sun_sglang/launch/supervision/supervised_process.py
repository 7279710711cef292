"""Keep one process running: start it, wait for its end, start it again after a pause that grows.

A process that refuses to run is not started again, unless `restart` asks for it. An end before the process served is
an early end: the next start will probably end the same way, so the last lines of its log are kept for the user. An end
that `restart` caused is not an early end, and no pause follows it.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sun_sglang.errors import EXIT_REFUSED, LaunchError
from sun_sglang.launch.places.place import PlaceLostError, RefusedError, Running
from sun_sglang.launch.state import Phase, ProcessState
from sun_sglang.launch.supervision.log_end import last_lines, last_reason, read_end

_LONGEST_PAUSE = 30.0
_LOG_END_LINES = 20


def pause_before(failures: int) -> float:
    """Return the seconds to wait before the start that follows `failures` (at least 1) early ends in a row."""
    return float(min(_LONGEST_PAUSE, 0.5 * 2 ** (failures - 1)))


def describe_end(status: int) -> str:
    """Return an exit status in words."""
    if status >= 0:
        return f"exit {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


async def _nothing(_lost: bool) -> None:
    """Prepare nothing."""


class SupervisedProcess:
    """One process that is kept running.

    Args:
        state: its name and its phase.
        start: starts it; called with the number of restarts so far.
        changed: called after every change of `state`.
        prepare: called before every start but the first. Waits until the resources of the last start are free; where
            its argument is true, the place has lost the last start, and `prepare` finds another slot. May be cancelled.
        steady_after: seconds after which the process counts as serving, where no caller reports it with `serves`.

    Attributes:
        early_ends: how many starts in a row ended before they served.
        refusal: why the process refuses to run; None while it does not.
    """

    def __init__(
        self,
        state: ProcessState,
        start: Callable[[int], Awaitable[Running]],
        changed: Callable[[], None],
        *,
        prepare: Callable[[bool], Awaitable[None]] = _nothing,
        steady_after: float = math.inf,
    ) -> None:
        self.state = state
        self.early_ends = 0
        self.refusal: str | None = None
        self._start = start
        self._changed = changed
        self._prepare = prepare
        self._steady_after = steady_after
        self._running: Running | None = None
        # the last start, until none of its processes is left
        self._leaving: Running | None = None
        self._lost = False
        self._served = False
        self._incarnation = ""
        self._began = 0.0
        self._log_end = b""
        self._stopping = asyncio.Event()
        # the present start, or the pause before the next one, is to end
        self._again = asyncio.Event()
        self._restart_pending = False
        self._grace = 0.0

    @property
    def restart_pending(self) -> bool:
        """Whether `restart` was called and the start that it asked for has not begun."""
        return self._restart_pending

    async def run(self) -> None:
        """Keep it running until `stop`. A process that refuses to run waits for `stop` or `restart`."""
        while not self._stopping.is_set():
            self._began = time.monotonic()
            end = await self._run_once()
            if self._stopping.is_set():
                break
            planned = self._again.is_set()
            self._again.clear()
            if planned:
                self.refusal = None
            elif self.refusal is not None:
                self.set(phase=Phase.FAILED, pid=0, detail=self.refusal)
                await self._pause(None)
                if self._stopping.is_set():
                    return
                planned = True
            early = not planned and not self._served and not self._is_steady()
            self.early_ends = self.early_ends + 1 if early else 0
            log_end = last_lines(self._log_end, _LOG_END_LINES) if early else ""
            detail = f"restarted on request ({end})" if planned and end else end
            restarts = self.state.restarts + 1
            self.set(phase=Phase.RESTARTING, pid=0, detail=detail, log_end=log_end, restarts=restarts)
            if not planned:
                await self._pause(pause_before(max(1, self.early_ends)))
        self.set(phase=Phase.STOPPED, pid=0)

    async def restart(self, grace: float) -> None:
        """End the present start, so that `run` begins the next one at once; that end counts as no failure.

        A process that waits before its next start, or that refuses to run, is started at once, too.

        Args:
            grace: seconds between SIGTERM and SIGKILL.
        """
        if self._stopping.is_set():
            return
        self.early_ends, self.refusal = 0, None
        self._grace, self._restart_pending = grace, True
        self._again.set()
        if self._running is not None:
            await self._end(self._running, grace)

    def serves(self, incarnation: str) -> None:
        """Note that a start was proven, so its end will not be an early one.

        Args:
            incarnation: the start's own value. A late report about the start before carries a known value and is
                ignored.
        """
        if self._running is None or incarnation == self._incarnation:
            return
        self._incarnation, self._served = incarnation, True
        self.early_ends = 0
        if self.state.log_end:
            self.set(log_end="")

    def settle(self) -> None:
        """Count it as serving if it has run for `steady_after` seconds."""
        if self._running is not None and self._is_steady():
            self.serves(f"start {self.state.restarts}")

    async def stop(self, grace: float) -> None:
        """End it: SIGTERM, and SIGKILL after `grace` seconds. `run` ends a start that is still under way."""
        self._grace = grace
        self._stopping.set()
        if self._running is not None:
            await self._end(self._running, grace)

    def set(self, **changes: object) -> None:
        """Change fields of `state`."""
        self.state = self.state.model_copy(update=changes)
        self._changed()

    async def _run_once(self) -> str:
        """Start the process and return how it ended."""
        self._served, self._log_end = False, b""
        try:
            await self._wait_gone()
            await self._free()
            if self._stopping.is_set():
                return ""
            # this start is the one that `restart` asked for
            self._again.clear()
            self._restart_pending = False
            running = await self._start(self.state.restarts)
        except RefusedError as e:
            self.refusal = str(e)
            return self.refusal
        except (LaunchError, OSError) as e:
            # no process, descriptor or disk space left: it is tried again like after any other early end
            if isinstance(e, PlaceLostError):
                self._lost, self._leaving = True, None
            return str(e)
        self._running = self._leaving = running
        self.set(phase=Phase.RUNNING, pid=running.pid)
        if self._stopping.is_set() or self._again.is_set():
            await self._end(running, self._grace)
        try:
            return await self._wait_for_end(running)
        except PlaceLostError as e:
            self._lost, self._leaving = True, None
            return str(e)
        finally:
            self._running = None

    async def _wait_for_end(self, running: Running) -> str:
        """Wait for the end of a start and of all its processes, and return it in words.

        Raises:
            PlaceLostError: the place has lost the machine.
        """
        status = await running.wait()
        self._running = None
        end = describe_end(status)
        try:
            await self._wait_gone()
        except PlaceLostError:
            raise
        except LaunchError as e:
            end = f"{end}; {e}"
        self._log_end = await read_end(running)
        if status == EXIT_REFUSED:
            self.refusal = last_reason(self._log_end) or end
        return end

    async def _wait_gone(self) -> None:
        """Wait until no process of the last start is left.

        Raises:
            LaunchError: a process of the last start does not end.
        """
        if self._leaving is not None:
            await self._leaving.wait_gone()
            self._leaving = None

    def _is_steady(self) -> bool:
        return time.monotonic() - self._began >= self._steady_after

    async def _free(self) -> None:
        """Prepare the next start, or give up once `stop` was called."""
        if self.state.restarts:
            preparing = asyncio.ensure_future(self._prepare(self._lost))
            stopping = asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait((preparing, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if preparing.done():
                preparing.result()
                self._lost = False
            preparing.cancel()

    async def _end(self, running: Running, grace: float) -> None:
        self.set(phase=Phase.STOPPING)
        # `run` reports the loss of a machine
        with suppress(PlaceLostError):
            await running.send(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace):
                    await running.wait()
            except TimeoutError:
                await running.send(signal.SIGKILL)
                await running.wait()

    async def _pause(self, seconds: float | None) -> None:
        """Wait, for ever where `seconds` is None, until `stop` or `restart` is called."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stopping, self._again)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._again.clear()
