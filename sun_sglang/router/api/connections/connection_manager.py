"""Accept client connections up to a bound, and end those that make no progress. I/O: sockets.

Each connection takes a descriptor, whether or not a request arrives on it, so a client that opens many connections and
sends little could take all descriptors (slowloris). Each connection is therefore in one of two states. It *waits* while
the header of its next request is incomplete. It is *busy* from the complete header to the end of the response. The
router closes a waiting connection whose header takes too long, or that has waited longest when the bound is reached. It
ends a busy connection only if the request's body takes too long.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl
from collections.abc import Callable, Mapping

from aiohttp import web

from sun_sglang.router.api.connections.client_connection import ClientConnection
from sun_sglang.router.auth.cors import CrossOriginPolicy
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.observability.request_id import REQUEST_ID_HEADER, RandomBytes, choose_request_id

_BACKLOG = 2048
_ACCEPTS_AT_ONCE = 32
# descriptors for everything but connections: files, pipes, listening sockets, sibling processes
_RESERVE = 64
# bounds memory where descriptors do not: an idle connection takes about 30 KiB
_MOST = 16384
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_descriptor_limit() -> None:
    """Raise this process's limit of descriptors to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections(descriptors: int) -> int:
    """Return how many client connections fit into a limit of descriptors.

    Each may need two more descriptors, for the two legs of its request.
    """
    return max(1, min(_MOST, (descriptors - _RESERVE) // 3))


class ConnectionManager:
    """Accepts connections and enforces their deadlines.

    Args:
        handler: returns a new handler of aiohttp for one connection.
        tls: for HTTPS; None for plain HTTP.
        most: connections that may be open at once, including those in a TLS handshake.
        now: returns the seconds for which this process has run. No client is late because this process was stopped.
        metrics: counts connections.
        log: reports connections that the router ended.
        deadlines: limits for handshakes, headers and bodies.
        cors: the pages that may read errors.

    Attributes:
        clock: seconds, as of the last sweep. This is exact enough, and reading it costs a request nothing.
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
        cors: CrossOriginPolicy,
    ) -> None:
        self.deadlines = deadlines
        self._handler = handler
        self._tls = tls
        self._most = most
        self._now = now
        self._cors = cors
        self._random_bytes = RandomBytes()
        self._metrics = metrics
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._address = ("", 0)
        self._handshakes: dict[ClientConnection, asyncio.Task[None]] = {}
        self._open: dict[web.RequestHandler, ClientConnection] = {}
        # ordered by when each was accepted, was answered, or began a header; includes handshakes
        self._waiting: dict[ClientConnection, None] = {}
        self._ended: dict[str, int] = {}
        self.clock = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listening socket."""
        return self._address

    @property
    def count(self) -> int:
        """The number of open connections, including those in a handshake."""
        return len(self._open) + len(self._handshakes)

    async def listen(self, host: str, port: int, *, shared: bool) -> None:
        """Bind the port and accept connections.

        Args:
            host: address or name to bind; a name may have several addresses.
            port: TCP port; 0 takes a free one.
            shared: other processes listen on the same port.

        Raises:
            OSError: the address cannot be bound.
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
        """Stop accepting connections; those that are open stay open."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        for task in self._handshakes.values():
            task.cancel()

    async def run(self) -> None:
        """End connections that exceed a deadline, until cancelled."""
        while True:
            before = self._now()
            await asyncio.sleep(self.deadlines.client_sweep)
            self.clock += self._now() - before
            self._sweep()

    def mark_busy(self, request: web.BaseRequest) -> ClientConnection | None:
        """Mark the connection of a request whose header is complete as busy.

        Returns:
            The connection; None if a sibling process sent the request over its unix socket.
        """
        connection = self._open.get(request.protocol)
        if connection is not None:
            self._waiting.pop(connection, None)
            connection.begin_request(request)
        return connection

    def mark_waiting(self, connection: ClientConnection) -> None:
        """Mark a connection whose request was answered as waiting."""
        connection.end_request()
        if connection.handler in self._open:
            self._waiting[connection] = None

    def cut(self, error: ApiError) -> None:
        """Answer each request whose body is incomplete with an error."""
        for connection in self._open.values():
            if connection.awaits_body:
                connection.cut(error)

    def counts(self) -> dict[str, int]:
        """Return how many connections are in each state."""
        waiting = len(self._waiting) - len(self._handshakes)
        return {"waiting": waiting, "busy": len(self._open) - waiting, "handshake": len(self._handshakes)}

    # --- called by connections ----------------------------------------------------------------------------------------

    def error_headers(self, origin: str | None) -> Mapping[str, str]:
        """Return the headers of an error for a request that no middleware has seen, from a page or a program."""
        headers = self._cors.response_headers(origin) if self._cors.is_enabled else {}
        return {REQUEST_ID_HEADER: choose_request_id(None, self._random_bytes), **headers}

    def add(self, connection: ClientConnection) -> web.RequestHandler:
        """Take in a connection that is established. Return aiohttp's handler for it."""
        handler = self._handler()
        self._handshakes.pop(connection, None)
        self._open[handler] = connection
        self._waiting.setdefault(connection)
        return handler

    def header_began(self, connection: ClientConnection) -> None:
        """Move a connection on which a header begins behind all others that wait."""
        if connection in self._waiting:
            del self._waiting[connection]
            self._waiting[connection] = None

    def remove(self, connection: ClientConnection) -> None:
        """Forget a connection that is closed."""
        self._open.pop(connection.handler, None)
        self._waiting.pop(connection, None)

    def count_ended(self, why: str) -> None:
        """Count a connection that the router ends; one line of the log reports all of a second."""
        self._ended[why] = self._ended.get(why, 0) + 1
        self._metrics.connections_ended.labels(why).inc()

    # --- accepting ----------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                accepted, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as e:
                if e.errno not in _NO_DESCRIPTOR:
                    continue  # the client left before it was accepted
                self.count_ended("no_descriptor")
                self._make_room()
                self._pause(listener)
                return
            if self.count >= self._most and not self._make_room():
                self.count_ended("full")
                accepted.close()
                continue
            accepted.setblocking(False)
            connection = ClientConnection(self)
            self._handshakes[connection] = self._loop.create_task(self._begin(connection, accepted))
            self._waiting[connection] = None

    def _pause(self, listener: socket.socket) -> None:
        """Stop accepting for a moment: until a descriptor is free, the listener would wake the loop all the time."""
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
            # the client left, or its TLS handshake failed or took too long
            return
        finally:
            if not connection.is_established:
                self._handshakes.pop(connection, None)
                self._waiting.pop(connection, None)
                accepted.close()

    def _make_room(self) -> bool:
        """Close the connection that has waited longest, and whose client has read its last response."""
        for connection in self._waiting:
            if not connection.has_unread_data:
                self._end(connection, "full")
                return True
        return False

    # --- sweeping -----------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        for connection in list(self._waiting):
            if self.clock > connection.header_due and not connection.has_unread_data:
                self._end(connection, "" if connection.is_cut else "header")
        for connection in list(self._open.values()):
            if connection.awaits_body and self.clock > connection.body_due():
                self.count_ended("body")
                base, rate = self.deadlines.client_body, self.deadlines.client_body_bytes
                message = f"the body did not arrive within {base:g} s, and one more for each {rate:g} bytes"
                connection.cut(ApiError(408, message, code="body_timeout"))
        if self._ended:
            self._log.event("connections_ended", **self._ended)
            self._ended.clear()

    def _end(self, connection: ClientConnection, why: str) -> None:
        """Close a connection that waits, for a reason that is counted; an empty one was counted before."""
        if why:
            self.count_ended(why)
        self._waiting.pop(connection, None)
        if (handshake := self._handshakes.pop(connection, None)) is not None:
            handshake.cancel()
            return
        self._open.pop(connection.handler, None)
        connection.close()
