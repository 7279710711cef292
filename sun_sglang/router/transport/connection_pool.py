"""Idle connections to workers, kept until they are used again or too old."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import NamedTuple
from urllib.parse import urlsplit

from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.transport.connection import Connection, RequestHeads
from sun_sglang.router.transport.errors import ExhaustedError, NotConnectedError, is_exhausted


class _Idle(NamedTuple):
    connection: Connection
    since: float


class Origin:
    """One worker's address and the idle connections to it.

    Args:
        base: `http://HOST:PORT` or `https://...`.
        clock: for the limit on connecting.
        deadlines: `connect` and `keepalive`.
        key: the worker's key; None where it has none.

    Attributes:
        idle: connections without a request, the last used one at the end.
    """

    def __init__(self, base: str, clock: Clock, deadlines: Deadlines, key: str | None = None) -> None:
        parts = urlsplit(base)
        assert parts.hostname is not None, "checked when the fleet file was read"
        self.host = parts.hostname
        self.ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self.port = parts.port or (443 if self.ssl else 80)
        self.clock = clock
        self.idle: deque[_Idle] = deque()
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self._heads = RequestHeads(parts.netloc, key)
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def acquire(self) -> Connection | None:
        """Return an idle connection that is still open; None if there is none."""
        oldest = self._loop.time() - self._deadlines.keepalive
        while self.idle:
            # the last used one: the others grow old and are closed
            connection, since = self.idle.pop()
            if since > oldest and connection.is_open:
                return connection
            connection.close()
        return None

    def release(self, connection: Connection) -> None:
        """Keep a connection whose response ended."""
        if self._closed:
            connection.close()
            return
        self.idle.append(_Idle(connection, self._loop.time()))
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._deadlines.keepalive, self._close_old)

    async def connect(self) -> Connection:
        """Open a new connection.

        Raises:
            NotConnectedError: the worker refused it, or did not answer within `connect` seconds.
            ExhaustedError: the router has no descriptor, port or memory left.
        """
        where = f"cannot connect to {self.host}:{self.port}"
        try:
            async with self.clock.timeout(self._deadlines.connect):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._heads, self.release), self.host, self.port, ssl=self.ssl
                )
        except TimeoutError as e:
            raise NotConnectedError(f"{where} (timed out)") from e
        except OSError as e:
            if is_exhausted(e):
                raise ExhaustedError(f"{where} ({e.strerror or e})") from e
            raise NotConnectedError(f"{where} ({e.strerror or e})") from e
        return connection

    def close(self) -> None:
        """Close the idle connections; connections in use are closed when their responses end."""
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
    """The origins of all workers."""

    def __init__(self, clock: Clock, deadlines: Deadlines) -> None:
        self._clock = clock
        self._deadlines = deadlines
        self._origins: dict[tuple[str, str | None], Origin] = {}

    def origin(self, base: str, key: str | None = None) -> Origin:
        """Return the worker at `base` (`http://HOST:PORT`), which requires `key`."""
        origin = self._origins.get((base, key))
        if origin is None:
            origin = self._origins[base, key] = Origin(base, self._clock, self._deadlines, key)
        return origin

    @property
    def idle_count(self) -> int:
        """The number of idle connections."""
        return sum(len(origin.idle) for origin in self._origins.values())

    def close(self) -> None:
        """Close the idle connections; connections in use are closed when their responses end."""
        for origin in self._origins.values():
            origin.close()
