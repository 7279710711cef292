"""A process of this machine that the launcher has started, as a place's `Running`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

from sun_sglang.launch.places.local.process_group import end_group, signal_group
from sun_sglang.launch.places.place import Address

_CHUNK_BYTES = 1 << 16


class Child:
    """The first process of a start, which leads a process group.

    Args:
        pid: its process id, and the id of its group.
        ended: resolves to its exit status; negative: the number of the signal that ended it.
    """

    def __init__(self, pid: int, ended: Awaitable[int]) -> None:
        self.pid = pid
        self._ended = asyncio.ensure_future(ended)

    @property
    def has_ended(self) -> bool:
        """Whether its exit status is known."""
        return self._ended.done()

    async def wait(self) -> int:
        """Return its exit status."""
        return await asyncio.shield(self._ended)


class LocalRunning:
    """One start on this machine.

    Args:
        address: where it listens.
        child: its first process.
        log: the file that holds the output of all its starts.
        log_begin: the byte of the file at which this start's output begins.
    """

    def __init__(self, address: Address, child: Child, log: Path, log_begin: int) -> None:
        self.address = address
        self._child = child
        self._log = log
        self._log_begin = log_begin

    @property
    def pid(self) -> int:
        """Process id of the first process."""
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        """Whether the exit status of the first process is known."""
        return self._child.has_ended

    async def wait(self) -> int:
        """Return the exit status of the first process."""
        return await self._child.wait()

    async def wait_gone(self) -> None:
        """Wait until no process of this start is left.

        Raises:
            LaunchError: a killed process does not end.
        """
        await self._child.wait()
        await end_group(self._child.pid)

    async def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the first process has ended: `wait_gone` ends the processes that it left."""
        if not self._child.has_ended:
            signal_group(self._child.pid, number)

    async def logs(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield what this start has written so far; `offset` as in `Running.logs`."""
        end = log_size(self._log)
        at = self._log_begin + offset if offset >= 0 else max(self._log_begin, end + offset)
        while at < end and (chunk := await asyncio.to_thread(_read, self._log, at, min(_CHUNK_BYTES, end - at))):
            at += len(chunk)
            yield chunk


def log_size(log: Path) -> int:
    """Return the bytes of a log; 0 where there is none."""
    return log.stat().st_size if log.exists() else 0


def _read(log: Path, at: int, count: int) -> bytes:
    with log.open("rb") as file:
        file.seek(at)
        return file.read(count)
