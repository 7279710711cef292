"""One start of a worker in a Ray cluster, as a place's `Running`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.place import PlaceLostError
from sun_sglang.launch.places.ray.calls import answered
from sun_sglang.launch.places.ray.host.worker_host import StartState


class RayRunning:
    """One start; on several machines its ranks live and die together.

    Args:
        worker: the worker's name.
        hosts: the handles of its actors, by rank.
        starts: what each of them has started.
    """

    def __init__(self, worker: str, hosts: tuple[Any, ...], starts: tuple[StartState, ...]) -> None:
        self.address = starts[0].address
        self.pid = starts[0].pid
        self._worker = worker
        self._ranks = tuple(zip(hosts, starts, strict=True))
        self._ended = asyncio.create_task(self._wait_for_end())
        self._ended.add_done_callback(_note_retrieved)
        self._is_gone = False

    async def wait(self) -> int:
        """Return the exit status of the worker's first process, or of the rank that ended first."""
        return await asyncio.shield(self._ended)

    async def wait_gone(self) -> None:
        """Wait until no process of this start is left."""
        await self.wait()
        if not self._is_gone:
            await asyncio.gather(*(self._call(host.wait_gone, start) for host, start in self._ranks))
            self._is_gone = True

    async def send(self, number: signal.Signals) -> None:
        """Send a signal, as `Running.send` says; no error where the first process has ended."""
        if self._ended.done() and not self._ended.cancelled() and self._ended.exception() is None:
            return
        await asyncio.gather(*(self._call(host.send, start, int(number)) for host, start in self._ranks))

    async def logs(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield what the first process has written so far; `offset` as in `Running.logs`."""
        host, start = self._ranks[0]
        end = await self._call(host.output_size, start)
        at = offset if offset >= 0 else max(0, end + offset)
        while at < end and (chunk := (await self._call(host.read_start, start, at))[: end - at]):
            at += len(chunk)
            yield chunk

    async def _wait_for_end(self) -> int:
        waits = [asyncio.ensure_future(self._call(host.wait, start)) for host, start in self._ranks]
        try:
            (first, *_), others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if others:
                # a worker without one of its ranks answers nothing
                await asyncio.gather(
                    *(self._call(host.send, start, int(signal.SIGKILL)) for host, start in self._ranks),
                    return_exceptions=True,
                )
                await asyncio.wait(others)
            lost = [wait.exception() for wait in waits if isinstance(wait.exception(), PlaceLostError)]
            if lost and lost[0] is not None:
                raise lost[0]
            return int(first.result())
        finally:
            for wait in waits:
                wait.cancel()

    async def _call(self, method: Any, start: StartState, *arguments: Any) -> Any:
        return await answered(self._worker, lambda: method.remote(start.number, *arguments))


def _note_retrieved(ended: asyncio.Task[int]) -> None:
    """Read the exception of a wait that nobody awaits any more."""
    if not ended.cancelled():
        with suppress(LaunchError):
            ended.result()
