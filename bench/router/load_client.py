"""A load generator that costs little beside the load balancer: HTTP/1.1 on asyncio protocols.

It has one object for each connection, finds the end of each answer and counts events by their prefix; it parses nothing
else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import orjson

_EVENT = b"data: {"
_END = b"0\r\n\r\n"


class LoadError(Exception):
    """A request failed; the run has no valid result."""


class Throughput(NamedTuple):
    """Completed requests or chunks, and the seconds in which they completed."""

    number: int
    seconds: float

    @property
    def rate(self) -> float:
        """Return the number per second."""
        return self.number / self.seconds


def request_bytes(
    tokens: int, *, period_us: int = 1, stream: bool = False, prompt: int = 16, path: str = "/generate"
) -> bytes:
    """Return a request as bytes.

    Args:
        tokens: tokens to generate.
        period_us: microseconds between two tokens of a stream; the null worker sends at this pace.
        stream: stream the answer.
        prompt: tokens of the prompt; of `/generate` alone.
        path: `/generate` or `/v1/chat/completions`.
    """
    fields: dict[str, Any] = {"model": "bench", "stream": stream}
    if path == "/generate":
        fields["input_ids"] = [period_us, *range(1, prompt)]
        fields["sampling_params"] = {"max_new_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
    else:
        fields |= {"messages": [{"role": "user", "content": str(period_us)}], "max_tokens": tokens, "temperature": 0.0}
    body = orjson.dumps(fields)
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self) -> None:
        self.events = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""
        # bytes of the answer still to come; -1 before the end of its header, -2 for a chunked answer
        self._missing = -1
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        # uvloop's transports are not subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request under way."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(LoadError("the connection closed in the middle of an answer"))

    async def send(self, raw: bytes) -> None:
        """Send a request and wait for the end of its answer.

        Raises:
            LoadError: the status is not 200, or the connection closed.
        """
        self._waiter = self._loop.create_future()
        self._head, self._missing, self._tail = b"", -1, b""
        self._transport.write(raw)
        await self._waiter

    def data_received(self, data: bytes) -> None:
        """Count events and find the end of the answer."""
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
            # shorter than an event's prefix: no event is counted twice
            self._tail = seen[-(len(_EVENT) - 1) :]

    def close(self) -> None:
        """Close the connection; a request under way fails."""
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
    """Open `count` connections to a port of 127.0.0.1."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        made.append(connection)
    return made


async def closed_loop(port: int, *, connections: int, seconds: float, tokens: int = 8) -> Throughput:
    """Request whole answers for some seconds: each connection sends its next request as soon as an answer ends.

    Args:
        port: port of 127.0.0.1.
        connections: concurrent requests.
        seconds: duration; each connection sends at least one request.
        tokens: tokens of an answer.

    Raises:
        LoadError: a request failed.
    """
    raw = request_bytes(tokens)
    opened = await connect(port, connections)
    began = time.perf_counter()
    done = 0

    async def work(connection: Connection) -> None:
        nonlocal done
        while True:
            await connection.send(raw)
            done += 1
            if time.perf_counter() - began >= seconds:
                return

    await asyncio.gather(*(work(c) for c in opened))
    count = Throughput(done, time.perf_counter() - began)
    _close(opened)
    return count


async def stream_load(
    port: int, *, count: int, rate: float, seconds: float, mark: Callable[[], float], path: str = "/generate"
) -> tuple[Throughput, float]:
    """Count the chunks that arrive over `count` concurrent streams.

    Args:
        port: port of 127.0.0.1.
        count: concurrent streams; each runs for the whole time.
        rate: chunks a second that the worker sends, over all streams.
        seconds: duration of the count, once every stream has begun; longer if no chunk arrived by then.
        mark: a counter, such as CPU seconds, that is read at both ends of the counted time.
        path: `/generate` or `/v1/chat/completions`.

    Returns:
        The chunks, and the increase of `mark`.

    Raises:
        LoadError: a request failed.
    """
    period_us = max(1, round(count / rate * 1e6))
    # long enough for the time until all streams have begun; the rest is cut off
    tokens = max(2, round((seconds + 30) * 1e6 / period_us))
    raw = request_bytes(tokens, period_us=period_us, stream=True, path=path)
    opened = await connect(port, count)
    sending = [asyncio.create_task(c.send(raw)) for c in opened]
    try:
        async with asyncio.timeout(25):
            while not all(c.events for c in opened):
                for task in sending:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.05)
        before, began, first = sum(c.events for c in opened), time.perf_counter(), mark()
        pause, arrived = seconds, 0
        async with asyncio.timeout(seconds + 25):
            while not arrived:
                await asyncio.sleep(pause)
                pause, arrived = 0.05, sum(c.events for c in opened) - before
        return Throughput(arrived, time.perf_counter() - began), mark() - first
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        _close(opened)


async def paced_load(port: int, *, rate: float, seconds: float, connections: int = 32, tokens: int = 8) -> list[float]:
    """Request whole answers at a fixed rate and return the seconds of each, from the time at which it was due.

    Time in a queue is part of the latency.

    Args:
        port: port of 127.0.0.1.
        rate: requests a second.
        seconds: duration.
        connections: most concurrent requests.
        tokens: tokens of an answer.

    Raises:
        LoadError: a request failed.
    """
    raw = request_bytes(tokens)
    opened = await connect(port, connections)
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for connection in opened:
        free.put_nowait(connection)
    took: list[float] = []

    async def one(due: float) -> None:
        connection = await free.get()
        await connection.send(raw)
        took.append(time.perf_counter() - due)
        free.put_nowait(connection)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for i in range(round(rate * seconds)):
            due = began + i / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            # without the timer's own delay, which is not the server's
            group.create_task(one(time.perf_counter()))
    _close(opened)
    return took


def _close(opened: list[Connection]) -> None:
    for connection in opened:
        connection.close()
