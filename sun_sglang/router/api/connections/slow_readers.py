"""Disconnect clients that do not read their responses.

The response of a slow client fills the router's buffer, and then the buffers of the worker's connection. The answer
keeps its slot meanwhile, although the worker has finished: SGLang does not wait for the reader.
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

# Bytes that a client must accept within `write_timeout` while at least as many wait for it: 1.1 kB/s with the default
# of 60 s. With a lower bound a client could keep a slot for hours by reading one byte a minute.
MIN_BYTES = 1 << 16


class Writer(Protocol):
    """The part of aiohttp's stream writer that is used.

    Attributes:
        output_size: bytes of the response that were written to the transport.
    """

    output_size: int


class Accepted(NamedTuple):
    """A measurement of a response.

    Attributes:
        size: bytes that the client had accepted.
        at: clock time in seconds.
    """

    size: int
    at: float


@dataclass(slots=True)
class ResponseDelivery:
    """The latest response on a client's connection.

    Attributes:
        transport: the connection.
        writer: counts the bytes of the response.
        context: records that the client was disconnected.
        path: path of the request, for the log.
        request_id: id of the request, for the log.
        accepted: the last measurement at which the client had accepted enough.
    """

    transport: asyncio.Transport
    writer: Writer
    context: RequestContext
    path: str
    request_id: str
    accepted: Accepted

    def is_stuck(self, now: float, limit: float) -> bool:
        """Measure how much the client has accepted. Return whether it accepted too little for `limit` seconds.

        Args:
            now: clock time in seconds.
            limit: `write_timeout` in seconds.
        """
        left = self.transport.get_write_buffer_size()
        size = self.writer.output_size - left
        if left == 0 or size - self.accepted.size >= MIN_BYTES:
            self.accepted = Accepted(size, now)
        elif size < self.accepted.size:
            # the buffer also holds bytes of an earlier response, or encrypted bytes, which are more
            self.accepted = Accepted(size, self.accepted.at)
        return now - self.accepted.at > limit


class SlowReaderDetector:
    """Watches the latest response on each connection until the connection is closed.

    Args:
        limit: `write_timeout` in seconds of the clock.
        clock: stops while the router is paused.
        log: reports disconnected clients.
        deadlines: the interval between two checks.
    """

    def __init__(self, limit: float, clock: Clock, log: Log, deadlines: Deadlines) -> None:
        self._limit = limit
        self._interval = min(deadlines.delivery_interval_max, limit / 4)
        self._clock = clock
        self._log = log
        self._deliveries: dict[asyncio.Transport, ResponseDelivery] = {}

    def watch(self, http: web.Request, context: RequestContext, request_id: str) -> None:
        """Watch the response to a request instead of earlier responses on its connection.

        Args:
            http: the request.
            context: records whether the client was disconnected.
            request_id: id of the request.
        """
        transport = http.transport
        if transport is not None:
            accepted = Accepted(0, self._clock.now())
            self._deliveries[transport] = ResponseDelivery(
                transport, http.writer, context, http.path, request_id, accepted
            )

    async def run(self) -> None:
        """Check all responses at intervals, until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            self.check()

    def check(self) -> None:
        """Disconnect clients that are stuck, and forget closed connections."""
        now = self._clock.now()
        for transport, delivery in tuple(self._deliveries.items()):
            left = transport.get_write_buffer_size()
            # a closing connection stays open until its last byte was accepted
            if transport.is_closing() and left == 0:
                del self._deliveries[transport]
            elif delivery.is_stuck(now, self._limit):
                del self._deliveries[transport]
                delivery.context.client_stalled = True
                self._log.event(
                    "client_stalled", request=delivery.request_id, path=delivery.path, unread=left, seconds=self._limit
                )
                transport.abort()
