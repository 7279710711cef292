"""Kept-alive HTTP/1.1 connections to workers, for the legs of requests.

A request is one write of a prepared header and its body; an answer is what httptools' parser (llhttp) makes of the
bytes, told to its receiver as it comes: no task, no queue and no header map lies between a worker and its leg. What a
general client does besides (URLs, cookies, redirects) is most of what a leg would cost.
"""

from __future__ import annotations

import asyncio
import errno
import select
import ssl
from collections import deque
from typing import NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import httptools

from sun_sglang.contracts.worker_key import bearer
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines

# uvicorn sends some hundred bytes.
MAX_HEAD_BYTES = 1 << 16


_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


def is_exhausted(error: BaseException) -> bool:
    """Whether a connection failed for want of a descriptor, a local port or memory of the router's."""
    return isinstance(error, OSError) and error.errno in _EXHAUSTED


class LegError(OSError):
    """No answer came, or not all of it. The text says why, as a person reads it."""


class NotConnectedError(LegError):
    """No connection to a worker came to be. The text names the worker's address and the reason."""


class ExhaustedError(NotConnectedError):
    """The router itself cannot open another connection. No worker is at fault."""


class BrokenError(LegError):
    """A connection ended before its answer did."""


class NotHttpError(LegError):
    """What came is no HTTP."""


class Receiver(Protocol):
    """Receives one response: `response_started` once, `response_data` for each part, then one of the others."""

    def response_started(self, status: int) -> None:
        """The answer's header is here."""

    def response_data(self, data: bytes) -> None:
        """Some of its body is."""

    def response_completed(self) -> None:
        """All of it is."""

    def response_failed(self, error: LegError) -> None:
        """No more will come."""


class Connection(asyncio.Protocol):
    """One connection to a worker; one request at a time."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._begun = False
        self._head_size = 0
        self._arrived = select.poll()
        self._transport: asyncio.Transport

    @property
    def is_open(self) -> bool:
        """A request may be written to it, as far as this machine knows.

        The kernel is asked, since the event loop may not have seen yet that the worker closed the connection.
        """
        return not (self._transport.is_closing() or self._arrived.poll(0))

    def send(self, path: str, body: bytes | None, receiver: Receiver) -> None:
        """Send a request: POST with a body, GET without."""
        assert self._receiver is None, "a connection has one request at a time"
        self._receiver, self._begun, self._head_size = receiver, False, 0
        if body is None:
            self._transport.write(self._origin.get_head(path))
        else:
            self._transport.write(b"%b%d\r\n\r\n%b" % (self._origin.head(path), len(body), body))

    def close(self) -> None:
        """Close it; whoever waits for an answer hears no more of it."""
        self._receiver = None
        self._transport.close()

    def pause(self) -> None:
        """Take nothing more from the worker for now."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Go on."""
        self._transport.resume_reading()

    # --- called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        # nothing arrives on a connection that rests, but its end
        self._arrived.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Parse; the parser calls the methods below."""
        if self._receiver is None:
            # nobody asked for this: the next request on this connection would take it for its answer
            self._transport.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self._fail(NotHttpError("the answer could not be taken"))
            raise
        except httptools.HttpParserError as e:
            self._fail(NotHttpError(f"the answer is not HTTP: {e}"))
        if not self._begun:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_BYTES:
                self._fail(NotHttpError(f"the answer's header is over {MAX_HEAD_BYTES} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        where = "in the middle of an answer" if self._begun else "without an answer"
        self._fail(BrokenError(f"it closed the connection {where}"))

    # --- called by the parser -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Close a connection that brings an answer nobody asked for, in the same packet as the one before it."""
        if self._receiver is None:
            self._transport.close()

    def on_headers_complete(self) -> None:
        """An answer begins."""
        if self._is_interim:
            return
        self._begun = True
        if self._receiver is not None:
            self._receiver.response_started(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        """A part of a body; of a chunked one, a chunk or a part of it."""
        if self._receiver is not None:
            self._receiver.response_data(data)

    def on_message_complete(self) -> None:
        """An answer ended: the connection is free before whoever waits hears of it."""
        if self._is_interim:
            return
        receiver, self._receiver = self._receiver, None
        # uvicorn closes the connection after an unhandled exception and does not announce it
        failed = self._parser.get_status_code() >= 500
        if receiver is None or failed or not self._parser.should_keep_alive():
            self._transport.close()
        else:
            self._origin.release(self)
        if receiver is not None:
            receiver.response_completed()

    @property
    def _is_interim(self) -> bool:
        """The message is no answer yet: a proxy may send some of status 1xx before it (RFC 9110, 15.2)."""
        return self._parser.get_status_code() < 200

    def _fail(self, error: LegError) -> None:
        receiver, self._receiver = self._receiver, None
        self._transport.close()
        if receiver is not None:
            receiver.response_failed(error)


class _Idle(NamedTuple):
    connection: Connection
    since: float


class Origin:
    """One worker, and the connections to it that are kept."""

    def __init__(self, base: str, clock: Clock, deadlines: Deadlines, key: str | None = None) -> None:
        parts = urlsplit(base)
        assert parts.hostname is not None, "checked when the fleet file was read"
        self.host = parts.hostname
        self.ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self.port = parts.port or (443 if self.ssl else 80)
        self.clock = clock
        self._deadlines = deadlines
        self.idle: deque[_Idle] = deque()
        self._loop = asyncio.get_running_loop()
        self._named = [f"Host: {parts.netloc}", *(f"{name}: {value}" for name, value in bearer(key).items())]
        self._heads: dict[str, bytes] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def head(self, path: str) -> bytes:
        """A request's header up to the length of its body."""
        head = self._heads.get(path)
        if head is None:
            lines = (f"POST {path} HTTP/1.1", *self._named, "Content-Type: application/json")
            head = self._heads[path] = "\r\n".join((*lines, "Content-Length: ")).encode()
        return head

    def get_head(self, path: str) -> bytes:
        """Return the whole header of a request without a body."""
        return "\r\n".join((f"GET {path} HTTP/1.1", *self._named, "", "")).encode()

    def acquire(self) -> Connection | None:
        """A connection that was kept, if one is of use still."""
        oldest = self._loop.time() - self._deadlines.keepalive
        while self.idle:
            # the last one used: what is not needed grows old and is closed
            connection, since = self.idle.pop()
            if since > oldest and connection.is_open:
                return connection
            connection.close()
        return None

    def release(self, connection: Connection) -> None:
        """Keep a connection whose answer ended."""
        if self._closed:
            connection.close()
            return
        self.idle.append(_Idle(connection, self._loop.time()))
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._deadlines.keepalive, self._close_old)

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            NotConnectedError: it is refused, or takes too long.
            ExhaustedError: the router has no descriptor, port or memory left for it.
        """
        where = f"cannot connect to {self.host}:{self.port}"
        try:
            async with self.clock.timeout(self._deadlines.connect):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self), self.host, self.port, ssl=self.ssl
                )
        except TimeoutError as e:
            raise NotConnectedError(f"{where} (timed out)") from e
        except OSError as e:
            if is_exhausted(e):
                raise ExhaustedError(f"{where} ({e.strerror or e})") from e
            raise NotConnectedError(f"{where} ({e.strerror or e})") from e
        return connection

    def close(self) -> None:
        """Close what is kept; connections in use end with their answers."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self.idle:
            self.idle.pop().connection.close()

    def _close_old(self) -> None:
        self._sweep = None
        oldest = self._loop.time() - self._deadlines.keepalive
        while self.idle and self.idle[0].since <= oldest:
            self.idle.popleft().connection.close()
        if self.idle:
            wait = self.idle[0].since + self._deadlines.keepalive - self._loop.time()
            self._sweep = self._loop.call_later(max(0.0, wait), self._close_old)


class ConnectionPool:
    """Connections to all workers, kept while they are of use."""

    def __init__(self, clock: Clock, deadlines: Deadlines) -> None:
        self._clock = clock
        self._deadlines = deadlines
        self._origins: dict[tuple[str, str | None], Origin] = {}

    def origin(self, base: str, key: str | None = None) -> Origin:
        """The worker at `base`, as `http://HOST:PORT`, which requires `key`."""
        origin = self._origins.get((base, key))
        if origin is None:
            origin = self._origins[base, key] = Origin(base, self._clock, self._deadlines, key)
        return origin

    @property
    def idle_count(self) -> int:
        """Connections that wait to be used again."""
        return sum(len(origin.idle) for origin in self._origins.values())

    def close(self) -> None:
        """Close what is kept; connections in use end with their answers."""
        for origin in self._origins.values():
            origin.close()
