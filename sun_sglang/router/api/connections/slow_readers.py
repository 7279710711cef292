"""Disconnect clients that do not read their answers.

A client that reads slowly holds its answer back in the router, and a long stream in its worker's connection as well.
Then the answer keeps its slot, although the worker is done: SGLang makes tokens at its own pace, whoever reads them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aiohttp import web

from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.request_context import RequestContext

# Bytes that a client has to accept within `write_timeout`, if so many wait for it: 1.1 kB/s with the default of 60 s.
# One byte would not do: a client that reads a byte a minute would keep its slot as long as it likes.
MIN_BYTES = 1 << 16


class Writer(Protocol):
    """The part of aiohttp's stream writer that is used: it counts the bytes of one response."""

    output_size: int


class Accepted(NamedTuple):
    """How many bytes of a response the client had accepted, and when that was counted."""

    size: int
    at: float


@dataclass(slots=True)
class ResponseDelivery:
    """The latest response on a client's connection.

    Attributes:
        transport: the connection.
        writer: counts what was written.
        account: learns that the client was disconnected.
        path: of the request.
        request: its id, for the log.
        accepted: the last time that the client had accepted enough.
    """

    transport: asyncio.Transport
    writer: Writer
    account: RequestContext
    path: str
    request: str
    accepted: Accepted

    def is_stuck(self, now: float, limit: float) -> bool:
        """Take note of what the client has accepted. Returns whether that is too little for `limit` seconds."""
        left = self.transport.get_write_buffer_size()
        size = self.writer.output_size - left
        if left == 0 or size - self.accepted.size >= MIN_BYTES:
            self.accepted = Accepted(size, now)
        elif size < self.accepted.size:
            # what is left is of an earlier response too, or was encrypted, which makes it longer
            self.accepted = Accepted(size, self.accepted.at)
        return now - self.accepted.at > limit


class SlowReaderDetector:
    """Watches the connections of clients that have sent a request, until they are closed.

    Args:
        limit: `write_timeout`, in seconds of the clock.
        clock: stands still while the router is paused.
        log: where a disconnected client is reported.
        deadlines: how often the connections are looked at.
    """

    def __init__(self, limit: float, clock: Clock, log: Log, deadlines: Deadlines) -> None:
        self._limit = limit
        self._interval = min(deadlines.delivery_interval_max, limit / 4)
        self._clock = clock
        self._log = log
        self._deliveries: dict[asyncio.Transport, ResponseDelivery] = {}

    def begin(self, http: web.Request, account: RequestContext, request: str) -> None:
        """Watch the response to a request, in place of earlier ones on its connection."""
        transport = http.transport
        if transport is not None:
            accepted = Accepted(0, self._clock.now())
            self._deliveries[transport] = ResponseDelivery(
                transport, http.writer, account, http.path, request, accepted
            )

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            self.look()

    def look(self) -> None:
        """Disconnect the clients that are stuck, and forget the connections that are closed."""
        now = self._clock.now()
        for transport, delivery in tuple(self._deliveries.items()):
            left = transport.get_write_buffer_size()
            # a connection that is closing is there until its last byte was accepted
            if transport.is_closing() and left == 0:
                del self._deliveries[transport]
            elif delivery.is_stuck(now, self._limit):
                del self._deliveries[transport]
                delivery.account.client_stalled = True
                self._log.event(
                    "client_stalled", request=delivery.request, path=delivery.path, unread=left, seconds=self._limit
                )
                transport.abort()
