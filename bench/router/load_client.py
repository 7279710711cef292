"""A client so lean that what it drives is what is measured: HTTP/1.1 on bare protocols, one object a connection.

It reads no more of an answer than its end: events are counted by their prefix, nothing is parsed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, cast

import orjson

_EVENT = b"data: {"
_END = b"0\r\n\r\n"


class LoadError(Exception):
    """A request failed; a figure from such a run would mean nothing."""


class Count(NamedTuple):
    """How many in how many seconds."""

    number: int
    seconds: float

    @property
    def rate(self) -> float:
        """A second."""
        return self.number / self.seconds


def request(tokens: int, *, period_us: int = 1, stream: bool = False, prompt: int = 16) -> bytes:
    """One request as bytes. `period_us`: microseconds between the tokens of a stream, which the worker keeps."""
    asked = {
        "model": "bench",
        "input_ids": [period_us, *range(1, prompt)],
        "sampling_params": {"max_new_tokens": tokens, "temperature": 0.0, "ignore_eos": True},
        "stream": stream,
    }
    body = orjson.dumps(asked)
    head = f"POST /generate HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.events = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""
        self._missing = -1  # bytes of a whole answer still to come; -1 while its header is, -2 for a chunked one
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits learns of it."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(LoadError("the connection closed in the middle of an answer"))

    async def ask(self, raw: bytes) -> None:
        """Send a request and wait for the end of its answer.

        Raises:
            LoadError: it is not a 200, or there is none.
        """
        self._waiter = self._loop.create_future()
        self._head, self._missing, self._tail = b"", -1, b""
        self._transport.write(raw)
        await self._waiter

    def data_received(self, data: bytes) -> None:
        """Count, and find the end."""
        if self._missing == -1:
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            if not self._begin(head, data):
                return
        if self._missing >= 0:
            self._missing -= len(data)
            if self._missing <= 0:
                self._end()
            return
        seen = self._tail + data
        self.events += seen.count(_EVENT)
        if seen.endswith(_END):
            self._end()
        else:
            # shorter than an event's prefix, so that none is counted twice
            self._tail = seen[-(len(_EVENT) - 1) :]

    def close(self) -> None:
        """Leave, whatever is under way."""
        self._transport.abort()

    def _begin(self, head: bytes, data: bytes) -> bool:
        if not head.startswith(b"HTTP/1.1 200"):
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(LoadError((head[:200] + b" " + data[:300]).decode(errors="replace")))
            return False
        lowered = head.lower()
        at = lowered.find(b"content-length:")
        self._missing = int(lowered[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else -2
        return True

    def _end(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def connect(port: int, count: int) -> list[Connection]:
    """Open connections to 127.0.0.1."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        made.append(connection)
    return made


async def closed_loop(port: int, *, connections: int, seconds: float, tokens: int = 8) -> Count:
    """Whole answers, as many as come: every connection asks again at once, and once at least."""
    raw = request(tokens)
    opened = await connect(port, connections)
    began = time.perf_counter()
    done = 0

    async def work(connection: Connection) -> None:
        nonlocal done
        while True:
            await connection.ask(raw)
            done += 1
            if time.perf_counter() - began >= seconds:
                return

    await asyncio.gather(*(work(c) for c in opened))
    count = Count(done, time.perf_counter() - began)
    _close(opened)
    return count


async def streams(
    port: int, *, count: int, rate: float, seconds: float, mark: Callable[[], float]
) -> tuple[Count, float]:
    """Chunks that arrive over `count` streams of `rate` chunks a second in all.

    Args:
        port: where to ask.
        count: streams at once, all of which run for the whole time.
        rate: chunks a second that the worker sends, over all streams.
        seconds: how long to count, once every stream has begun; longer if nothing came by then, for a rate of nothing
            is none.
        mark: read at both ends of the counted time.

    Returns:
        The count, and by how much `mark` rose.
    """
    period_us = max(1, round(count / rate * 1e6))
    # long enough for the time until all have begun; what is left over is cut off
    raw = request(max(2, round((seconds + 30) * 1e6 / period_us)), period_us=period_us, stream=True)
    opened = await connect(port, count)
    asking = [asyncio.create_task(c.ask(raw)) for c in opened]
    try:
        async with asyncio.timeout(25):
            while not all(c.events for c in opened):
                for task in asking:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.05)
        before, began, first = sum(c.events for c in opened), time.perf_counter(), mark()
        pause, arrived = seconds, 0
        async with asyncio.timeout(seconds + 25):
            while not arrived:
                await asyncio.sleep(pause)
                pause, arrived = 0.05, sum(c.events for c in opened) - before
        return Count(arrived, time.perf_counter() - began), mark() - first
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        _close(opened)


async def paced(port: int, *, rate: float, seconds: float, connections: int = 32, tokens: int = 8) -> list[float]:
    """Seconds that whole answers take at a fixed rate, from when each was due: a queue is part of the latency."""
    raw = request(tokens)
    opened = await connect(port, connections)
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for connection in opened:
        free.put_nowait(connection)
    took: list[float] = []

    async def one(due: float) -> None:
        connection = await free.get()
        await connection.ask(raw)
        took.append(time.perf_counter() - due)
        free.put_nowait(connection)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for i in range(round(rate * seconds)):
            due = began + i / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            # the timer's own lateness is the client's, not the answer's
            group.create_task(one(time.perf_counter()))
    _close(opened)
    return took


def _close(opened: list[Connection]) -> None:
    for connection in opened:
        connection.close()
