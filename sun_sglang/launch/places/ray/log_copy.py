"""Copies a worker's output from its machine to the launcher's, into the file that users look at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from sun_sglang.errors import LaunchError

_PATIENCE_S = 10.0
_LAST_WITHIN_S = 5.0


class LogCopy:
    """The copy of one host's log, over all of its starts.

    Args:
        read: returns further bytes of the log from an offset; empty where none comes within the given seconds.
        file: where they are appended.
    """

    def __init__(self, read: Callable[[int, float], Awaitable[bytes]], file: Path) -> None:
        self._read = read
        self._file = file
        self._copied = 0
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Copy what is left, and end."""
        self._following.cancel()
        with suppress(asyncio.CancelledError, LaunchError):
            await self._following
        # what a host on a lost machine had not sent is lost
        with suppress(LaunchError, TimeoutError):
            async with asyncio.timeout(_LAST_WITHIN_S):
                while await self._copy(0.0):
                    pass

    async def _follow(self) -> None:
        # the supervisor reports the loss of a machine
        with suppress(LaunchError):
            while True:
                await self._copy(_PATIENCE_S)

    async def _copy(self, patience: float) -> bool:
        chunk = await self._read(self._copied, patience)
        if chunk:
            await asyncio.to_thread(self._append, chunk)
            self._copied += len(chunk)
        return bool(chunk)

    def _append(self, chunk: bytes) -> None:
        # a full disk loses these bytes of the copy only
        with suppress(OSError), self._file.open("ab") as file:
            file.write(chunk)
