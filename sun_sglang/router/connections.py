"""Kept-alive HTTP/1.1 connections to workers, for the legs of requests.

A request is one write of a prepared header and its body, and an answer is aiohttp's own protocol and parser
(`aiohttp.client_proto`, llhttp underneath); what `aiohttp.ClientSession` does between the two (URLs, cookies,
redirects, header maps, a task to write a body) is most of what a leg would cost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

# Below uvicorn's 5 s, so that a request is not written to a connection that the worker is just closing.
KEEPALIVE_S = 3.0
CONNECT_TIMEOUT_S = 2.0
_READ_BUFFER = 1 << 18


class NotConnectedError(OSError):
    """No connection to a worker came to be. The text names the worker's address and the reason."""


class _Idle(NamedTuple):
    handler: ResponseHandler
    since: float


class Response:
    """An answer whose header is here.

    Attributes:
        status: HTTP status.
        content: its body. A connection that breaks is a `aiohttp.ClientError` of whoever reads.
    """

    __slots__ = ("_handler", "content", "status")

    def __init__(self, status: int, content: aiohttp.StreamReader, handler: ResponseHandler) -> None:
        self.status = status
        self.content = content
        self._handler = handler

    async def read(self) -> bytes:
        """All of the body.

        Raises:
            aiohttp.ClientError: the connection broke.
        """
        if self.content.is_eof() and self.content.exception() is None:
            return self.content.read_nowait(-1)
        return await self.content.read()

    def close(self) -> None:
        """Break an answer off that has not come to its end; whoever reads it gets an error."""
        if not self.content.is_eof():
            if self.content.exception() is None:
                self.content.set_exception(aiohttp.ClientConnectionError("Connection closed"))
            self._handler.close()


class _Origin:
    """The connections to one worker."""

    def __init__(self, base: str) -> None:
        parts = urlsplit(base)
        assert parts.hostname is not None, "checked when the fleet file was read"
        self.host = parts.hostname
        self.ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self.port = parts.port or (443 if self.ssl else 80)
        self.netloc = parts.netloc
        self.idle: deque[_Idle] = deque()
        self.heads: dict[str, bytes] = {}
        self.sweep: asyncio.TimerHandle | None = None

    def head(self, path: str) -> bytes:
        """A request's header up to the length of its body."""
        head = self.heads.get(path)
        if head is None:
            lines = (f"POST {path} HTTP/1.1", f"Host: {self.netloc}", "Content-Type: application/json")
            head = self.heads[path] = "\r\n".join((*lines, "Content-Length: ")).encode()
        return head


class Connections:
    """Connections to workers, kept while they are of use."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._origins: dict[str, _Origin] = {}
        self._closed = False

    async def post(self, base: str, path: str, body: bytes, *, fresh: bool = False) -> Response:
        """Send a JSON body and wait for the answer's header.

        Args:
            base: the worker, as `http://HOST:PORT`.
            path: on the worker.
            body: JSON.
            fresh: take no connection that was used before.

        Raises:
            NotConnectedError: there is no connection.
            TimeoutError: connecting took too long.
            aiohttp.ClientError: the connection broke before an answer, or the answer is no HTTP.
        """
        origin = self._origins.get(base)
        if origin is None:
            origin = self._origins[base] = _Origin(base)
        handler = None if fresh else self._take(origin)
        if handler is None:
            handler = await self._connect(origin)
        transport = handler.transport
        if transport is None:
            raise aiohttp.ServerDisconnectedError
        try:
            transport.write(b"%b%d\r\n\r\n%b" % (origin.head(path), len(body), body))
            message, content = await handler.read()
        except HttpProcessingError as e:
            handler.close()
            raise aiohttp.ClientPayloadError(f"the answer is not HTTP: {e.message}") from e
        except BaseException:
            handler.close()
            raise
        content.on_eof(lambda: self._give_back(origin, handler))
        return Response(message.code, content, handler)

    @property
    def kept(self) -> int:
        """Connections that wait to be used again."""
        return sum(len(origin.idle) for origin in self._origins.values())

    def close(self) -> None:
        """Close what is kept; connections in use end with their answers."""
        self._closed = True
        for origin in self._origins.values():
            if origin.sweep is not None:
                origin.sweep.cancel()
            while origin.idle:
                origin.idle.pop().handler.close()

    async def _connect(self, origin: _Origin) -> ResponseHandler:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, handler = await self._loop.create_connection(
                    lambda: ResponseHandler(self._loop), origin.host, origin.port, ssl=origin.ssl
                )
        except TimeoutError:
            raise
        except OSError as e:
            raise NotConnectedError(f"cannot connect to {origin.host}:{origin.port} ({e.strerror or e})") from e
        # an answer that is not compressed is not asked for, and not undone either
        handler.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=_READ_BUFFER)
        return handler

    def _take(self, origin: _Origin) -> ResponseHandler | None:
        oldest = self._loop.time() - KEEPALIVE_S
        while origin.idle:
            # the last one used: what is not needed grows old and is closed
            handler, since = origin.idle.pop()
            if since > oldest and handler.is_connected() and not handler.should_close:
                return handler
            handler.close()
        return None

    def _give_back(self, origin: _Origin, handler: ResponseHandler) -> None:
        # called by the parser in the middle of an answer's last bytes: whether more follows is asked at the next use
        if self._closed or not handler.is_connected():
            handler.close()
            return
        origin.idle.append(_Idle(handler, self._loop.time()))
        if origin.sweep is None:
            origin.sweep = self._loop.call_later(KEEPALIVE_S, self._close_old, origin)

    def _close_old(self, origin: _Origin) -> None:
        origin.sweep = None
        oldest = self._loop.time() - KEEPALIVE_S
        while origin.idle and origin.idle[0].since <= oldest:
            origin.idle.popleft().handler.close()
        if origin.idle:
            wait = origin.idle[0].since + KEEPALIVE_S - self._loop.time()
            origin.sweep = self._loop.call_later(max(0.0, wait), self._close_old, origin)
