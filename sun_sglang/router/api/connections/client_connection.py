"""One connection of a client: aiohttp's handler implements HTTP, and this protocol measures its time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol, cast

from aiohttp import web

from sun_sglang.router.api.connections.client_handler import header_too_large
from sun_sglang.router.api.connections.request_meter import RequestMeter
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.errors import ApiError

# Bytes of further requests that may arrive while one is answered; browsers and HTTP libraries send none.
_MOST_AHEAD = 1 << 18


class Owner(Protocol):
    """The part of the connection manager that a connection uses.

    Attributes:
        clock: seconds, as of the manager's last sweep.
        deadlines: limits for headers and bodies.
    """

    clock: float
    deadlines: Deadlines

    def error_headers(self, origin: str | None) -> Mapping[str, str]:
        """Return the headers of an error for a request that no middleware has seen, from a page or a program."""

    def add(self, connection: ClientConnection) -> web.RequestHandler:
        """Take in a connection that is established. Return aiohttp's handler for it."""

    def header_began(self, connection: ClientConnection) -> None:
        """Note that a waiting connection received the first byte of a header."""

    def remove(self, connection: ClientConnection) -> None:
        """Forget a connection that is closed."""

    def count_ended(self, why: str) -> None:
        """Count a connection that the router ends."""


class ClientConnection(asyncio.Protocol):
    """One connection.

    Attributes:
        handler: aiohttp's handler.
        request: the request that keeps the connection busy; None while the connection waits.
        header_due: by the owner's clock, when the next request's header must be complete, or the first byte of the
            connection be there; infinite while no header has begun after an answer.
        is_cut: the router answered a request before its header or body was complete.
    """

    __slots__ = (
        *("_ahead", "_answered", "_began", "_meter", "_owner", "_received", "_started", "_transport"),
        *("handler", "header_due", "is_cut", "request"),
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._received = 0
        self._ahead = 0
        self._meter = RequestMeter()
        self._answered = 0
        self._started = False
        self._began = 0.0
        self.handler: web.RequestHandler
        self.request: web.BaseRequest | None = None
        self.header_due = math.inf
        self.is_cut = False

    @property
    def is_established(self) -> bool:
        """Whether the TCP connection and its TLS handshake are complete."""
        return self._transport is not None

    @property
    def has_unread_data(self) -> bool:
        """Whether bytes of the last response have not been sent yet."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    @property
    def awaits_body(self) -> bool:
        """Whether the body of the request is incomplete."""
        return self.request is not None and not self.request.content.is_eof()

    def begin_request(self, request: web.BaseRequest) -> None:
        """Make the connection busy with a request whose header is complete."""
        self.request, self._began = request, self._owner.clock
        if self.is_cut and self.awaits_body:
            self.cut(header_too_large())

    def end_request(self) -> None:
        """Make the connection wait for the next request."""
        self.request, self._started, self._received, self._ahead, self.header_due = None, False, 0, 0, math.inf
        self._answered += 1
        self._start_header()

    def body_due(self) -> float:
        """Return when the request's body must be complete, by the owner's clock."""
        deadlines = self._owner.deadlines
        return self._began + deadlines.client_body + self._received / deadlines.client_body_bytes

    def cut(self, error: ApiError) -> None:
        """Answer a request whose body is incomplete with an error; later bytes of the body are dropped."""
        if self.request is not None:
            self.is_cut = True
            self.request.content.set_exception(error)
            # otherwise aiohttp waits for the rest of the body
            self.request.content.feed_eof()

    def close(self) -> None:
        """Close a waiting connection, with a 408 if a header has begun."""
        assert self._transport is not None, "only an established connection waits"
        if self._started and not self.is_cut:
            error = ApiError(408, "the header did not arrive in time", code="header_timeout")
            self._transport.write(_as_bytes(error, self._owner.error_headers(self._meter.origin)))
        self._transport.close()

    # --- called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the connection to aiohttp."""
        # uvloop's transports do not subclass asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self.handler = self._owner.add(self)
        self.header_due = self._owner.clock + self._owner.deadlines.client_first_byte
        self.handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass data to aiohttp."""
        if self.is_cut:
            return
        self._received += len(data)
        is_over = self._meter.exceeds(data)
        self._count_ahead(data)
        self._start_header()
        if is_over:
            self._refuse_header(data)
        elif not self.is_cut:
            self.handler.data_received(data)

    def eof_received(self) -> None:
        """Pass the end of the client's data to aiohttp."""
        self.handler.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client reads more slowly than the router writes."""
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client has read the buffered data."""
        self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on that the connection is closed."""
        self._owner.remove(self)
        self.handler.connection_lost(exc)

    # ------------------------------------------------------------------------------------------------------------------

    def _start_header(self) -> None:
        """Set the limit of a header that has begun, unless a request is being answered."""
        if self.request is None and self._meter.in_header and not self._started:
            self._started = True
            self.header_due = self._owner.clock + self._owner.deadlines.client_header
            self._owner.header_began(self)

    def _count_ahead(self, data: bytes) -> None:
        """Count bytes of later requests. Beyond the bound drop them, and end the connection with the response."""
        if self.request is not None and self.request.content.is_eof():
            self._ahead += len(data)
            self.is_cut = self._ahead > _MOST_AHEAD

    def _refuse_header(self, data: bytes) -> None:
        """Answer a header that is too large, and drop its rest for a moment: a reset would reach the client first.

        While earlier requests are unanswered the connection ends with the next response instead. Where the lines of a
        chunked body are too large, that response is the error.
        """
        assert self._transport is not None, "data arrived"
        self.is_cut = True
        self.header_due = self._owner.clock + self._owner.deadlines.client_refused
        self._owner.count_ended("header_size")
        if self._meter.requests > self._answered:
            self.handler.data_received(data[: self._meter.start])
            if self.awaits_body:
                self.cut(header_too_large())
        else:
            self._transport.write(_as_bytes(header_too_large(), self._owner.error_headers(self._meter.origin)))


def _as_bytes(error: ApiError, headers: Mapping[str, str]) -> bytes:
    """Return the last response of a connection whose request aiohttp has not read."""
    body = error.as_json()
    own = {"Content-Type": "application/json", "Connection": "close", "Content-Length": f"{len(body)}"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (own | dict(headers)).items())
    return f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{lines}\r\n".encode() + body
