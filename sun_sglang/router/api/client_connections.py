"""Client connections: accepted up to a bound, and ended where they do not go on. I/O: sockets.

A connection costs a descriptor whether or not a request comes over it, so a client that opens many and says little
would take them all (slowloris). Each connection is therefore in one of two states. It *waits*: its request's header is
not complete, or its last answer is out. It is *busy* from the complete header to the end of its answer. A connection
that waits is closed where its header takes too long, and makes room where the bound is reached; one that is busy is
ended only where its body does not arrive.
"""

from __future__ import annotations

import asyncio
import errno
import math
import resource
import socket
import ssl
from collections.abc import Callable
from typing import cast

from aiohttp import web

from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics

_BACKLOG = 2048
_ACCEPTS_AT_ONCE = 32
# what a process needs besides connections: files, pipes, listening sockets, its sibling processes
_RESERVE = 64
# memory bounds it where descriptors do not: an idle connection takes about 30 KiB
_MOST = 16384
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections(descriptors: int) -> int:
    """Return how many client connections fit; each may need two more descriptors for the legs of its request."""
    return max(1, min(_MOST, (descriptors - _RESERVE) // 3))


class ClientConnection(asyncio.Protocol):
    """One connection. aiohttp's handler speaks HTTP; this times it.

    Attributes:
        handler: aiohttp's.
        request: the request that it is busy with; None while it waits.
        due: by the clock of `Clients`, when its header has to be complete.
        is_cut: its request was answered before its body arrived.
    """

    __slots__ = (
        *("_began", "_clients", "_received", "_started", "_transport"),
        *("due", "handler", "is_cut", "request"),
    )

    def __init__(self, clients: ConnectionManager) -> None:
        self._clients = clients
        self._transport: asyncio.Transport | None = None
        self._received = 0
        self._started = False
        self._began = 0.0
        self.handler: web.RequestHandler
        self.request: web.BaseRequest | None = None
        self.due = math.inf
        self.is_cut = False

    @property
    def is_made(self) -> bool:
        """The connection, with its TLS, has come to be."""
        return self._transport is not None

    @property
    def is_unread(self) -> bool:
        """Some of its last answer is still to be sent."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    @property
    def wants_body(self) -> bool:
        """The body of its request has not arrived."""
        return self.request is not None and not self.request.content.is_eof()

    def enter(self, request: web.BaseRequest) -> None:
        """It is busy with a request whose header is complete."""
        self.request, self._began = request, self._clients.clock

    def leave(self) -> None:
        """It waits for another request."""
        self.request, self._started, self._received, self.due = None, False, 0, math.inf

    def body_due(self) -> float:
        """When its request's body has to have arrived, by the clock of `Clients`."""
        deadlines = self._clients.deadlines
        return self._began + deadlines.client_body + self._received / deadlines.client_body_bytes

    def cut(self, error: ApiError) -> None:
        """Answer a request whose body does not arrive with an error; what still comes of it is dropped."""
        if self.request is not None:
            self.is_cut = True
            self.request.content.set_exception(error)
            # so that aiohttp does not wait for the rest
            self.request.content.feed_eof()

    def close(self) -> None:
        """End a connection that waits; a client in the middle of a header is told why."""
        assert self._transport is not None, "only a connection that came to be waits"
        if self._started:
            self._transport.write(_TIMED_OUT)
        self._transport.close()

    # --- called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the connection to aiohttp."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self.handler = self._clients.made(self)
        self.due = self._clients.clock + self._clients.deadlines.client_header
        self.handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass data on."""
        if self.is_cut:
            return
        self._received += len(data)
        if self.request is None and not self._started:
            self._started = True
            self.due = min(self.due, self._clients.clock + self._clients.deadlines.client_header)
            self._clients.woke(self)
        self.handler.data_received(data)

    def eof_received(self) -> None:
        """The client sends no more."""
        self.handler.eof_received()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        """It has read."""
        self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._clients.lost(self)
        self.handler.connection_lost(exc)


class ConnectionManager:
    """Accepts connections and watches over them.

    Args:
        handler: makes aiohttp's handler of one connection.
        tls: for HTTPS.
        most: connections that may be open at once, those in a TLS handshake included.
        now: seconds for which this process ran; time for which it was stopped is no client's fault.
        metrics: counts.
        log: for connections that were ended.
        deadlines: for handshakes, headers and bodies.

    Attributes:
        clock: seconds that had gone by at the last sweep, which is exact enough and costs a request nothing.
    """

    def __init__(
        self,
        handler: Callable[[], web.RequestHandler],
        tls: ssl.SSLContext | None,
        most: int,
        now: Callable[[], float],
        metrics: Metrics,
        log: Log,
        deadlines: Deadlines,
    ) -> None:
        self.deadlines = deadlines
        self._handler = handler
        self._tls = tls
        self._most = most
        self._now = now
        self._metrics = metrics
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._address = ("", 0)
        self._handshakes: dict[ClientConnection, asyncio.Task[None]] = {}
        self._open: dict[web.RequestHandler, ClientConnection] = {}
        # in the order in which they were accepted, answered, or began to send a header; handshakes too
        self._waiting: dict[ClientConnection, None] = {}
        self._ended: dict[str, int] = {}
        self.clock = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listening socket."""
        return self._address

    @property
    def count(self) -> int:
        """Connections that are open, those in a handshake included."""
        return len(self._open) + len(self._handshakes)

    async def listen(self, host: str, port: int, *, shared: bool) -> None:
        """Begin to accept.

        Args:
            host: address or name to bind; a name may have several addresses.
            port: TCP port; 0 takes a free one.
            shared: other processes listen on the port too.

        Raises:
            OSError: it cannot be bound.
        """
        found = await self._loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setblocking(False)
            listener.bind(address)
        for listener in self._listeners:
            listener.listen(_BACKLOG)
            self._loop.add_reader(listener.fileno(), self._accept, listener)
        self._address = self._listeners[0].getsockname()[:2]

    def close(self) -> None:
        """Accept no more; connections that are open stay."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        for task in self._handshakes.values():
            task.cancel()

    async def run(self) -> None:
        """End connections that do not go on, until cancelled."""
        while True:
            before = self._now()
            await asyncio.sleep(self.deadlines.client_sweep)
            self.clock += self._now() - before
            self._sweep()

    def busy(self, request: web.BaseRequest) -> ClientConnection | None:
        """A request's header is complete. Returns its connection; None for a sibling process's."""
        connection = self._open.get(request.protocol)
        if connection is not None:
            self._waiting.pop(connection, None)
            connection.enter(request)
        return connection

    def waits(self, connection: ClientConnection) -> None:
        """A request was answered."""
        connection.leave()
        if connection.handler in self._open:
            self._waiting[connection] = None

    def cut(self, error: ApiError) -> None:
        """Answer each request whose body has not arrived with an error."""
        for connection in self._open.values():
            if connection.wants_body:
                connection.cut(error)

    def counts(self) -> dict[str, int]:
        """Open connections by state, for the metrics."""
        waiting = len(self._waiting) - len(self._handshakes)
        return {"waiting": waiting, "busy": len(self._open) - waiting, "handshake": len(self._handshakes)}

    # --- called by connections ----------------------------------------------------------------------------------------

    def made(self, connection: ClientConnection) -> web.RequestHandler:
        """A connection came to be. Returns aiohttp's handler for it."""
        handler = self._handler()
        self._handshakes.pop(connection, None)
        self._open[handler] = connection
        self._waiting.setdefault(connection)
        return handler

    def woke(self, connection: ClientConnection) -> None:
        """A connection that waited begins to send a header: others have waited longer now."""
        if connection in self._waiting:
            del self._waiting[connection]
            self._waiting[connection] = None

    def lost(self, connection: ClientConnection) -> None:
        """A connection has ended."""
        self._open.pop(connection.handler, None)
        self._waiting.pop(connection, None)

    # --- accepting ----------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                accepted, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as e:
                if e.errno not in _NO_DESCRIPTOR:
                    continue  # a client that left before it was accepted
                self._count("no_descriptor")
                self._make_room()
                self._pause(listener)
                return
            if self.count >= self._most and not self._make_room():
                self._count("full")
                accepted.close()
                continue
            accepted.setblocking(False)
            connection = ClientConnection(self)
            self._handshakes[connection] = self._loop.create_task(self._begin(connection, accepted))
            self._waiting[connection] = None

    def _pause(self, listener: socket.socket) -> None:
        """Try again a little later: until a descriptor is free the listener would wake the loop all the time."""
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(self.deadlines.accept_pause, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    async def _begin(self, connection: ClientConnection, accepted: socket.socket) -> None:
        timeout = self.deadlines.client_handshake if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except OSError:
            # it left, or its handshake is no TLS or takes too long
            return
        finally:
            if not connection.is_made:
                self._handshakes.pop(connection, None)
                self._waiting.pop(connection, None)
                accepted.close()

    def _make_room(self) -> bool:
        """Close the connection that has waited longest and has nothing left to read."""
        for connection in self._waiting:
            if not connection.is_unread:
                self._end(connection, "full")
                return True
        return False

    # --- watching -----------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        for connection in list(self._waiting):
            if self.clock > connection.due and not connection.is_unread:
                self._end(connection, "header")
        for connection in list(self._open.values()):
            if connection.wants_body and self.clock > connection.body_due():
                self._count("body")
                base, rate = self.deadlines.client_body, self.deadlines.client_body_bytes
                message = f"the body did not arrive: {base:g} s and one for each {rate:g} bytes are over"
                connection.cut(ApiError(408, message, code="body_timeout"))
        if self._ended:
            self._log.event("connections_ended", **self._ended)
            self._ended.clear()

    def _end(self, connection: ClientConnection, why: str) -> None:
        self._count(why)
        self._waiting.pop(connection, None)
        if (handshake := self._handshakes.pop(connection, None)) is not None:
            handshake.cancel()
            return
        self._open.pop(connection.handler, None)
        connection.close()

    def _count(self, why: str) -> None:
        self._ended[why] = self._ended.get(why, 0) + 1
        self._metrics.connections_ended.labels(why).inc()
