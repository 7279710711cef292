"""The one module that talks to workers on behalf of requests: two legs, and aborts."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson

from sun_sglang.router.attempt import Attempt
from sun_sglang.router.connections import CONNECT_TIMEOUT_S, KEEPALIVE_S, Connections, NotConnectedError, Response
from sun_sglang.router.log import Log
from sun_sglang.router.verdict import Lost, Reply, ended

ABORT_TIMEOUT_S = 5.0


def new_session() -> aiohttp.ClientSession:
    """The client session for all that is no leg. Only connecting has a deadline of its own."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


class Wire:
    """Sends legs and aborts. What a leg says goes to its attempt; nothing is decided here.

    Attributes:
        connections: to the workers.
    """

    def __init__(self, log: Log) -> None:
        self.connections = Connections()
        self._log = log

    async def prefill(self, attempt: Attempt, body: bytes) -> str:
        """The prefill leg, to its end. Returns how it ended, as `verdict.ended` says it."""
        said: Lost | Reply
        try:
            response = await self._post(attempt.pair.prefill.spec.url, attempt.call.endpoint, body)
            try:
                said = Reply(response.status, await response.read())
            finally:
                response.close()
        except (aiohttp.ClientError, OSError) as e:
            said = Lost(describe(e), refused=isinstance(e, NotConnectedError))
        attempt.hear("prefill", said)
        return ended(said)

    async def decode(self, attempt: Attempt, body: bytes) -> None:
        """The decode leg: a whole answer, or a stream up to its first event; the rest is read by whoever serves it."""
        try:
            response = await self._post(attempt.pair.decode.spec.url, attempt.call.endpoint, body)
            attempt.response = response
            if response.status == 200 and attempt.call.stream:
                attempt.hear("decode", Reply(200, await _first_event(response.content), streamed=True))
            else:
                attempt.hear("decode", Reply(response.status, await response.read()))
        except (aiohttp.ClientError, OSError) as e:
            attempt.hear("decode", Lost(describe(e), refused=isinstance(e, NotConnectedError)))

    async def _post(self, base: str, path: str, body: bytes) -> Response:
        """Send a leg. One that got no answer at all is sent once more, on a new connection.

        uvicorn closes an idle connection, and any connection after a 500, without a word; a request that was just
        written to it is lost. A server that died refuses the second connection, and the first error stands.
        """
        try:
            return await self.connections.post(base, path, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as first:
            self._log.event("leg_sent_again", url=base + path, why=describe(first))
            try:
                return await self.connections.post(base, path, body, fresh=True)
            except NotConnectedError:
                raise first from None

    async def abort(self, url: str, what: dict[str, Any]) -> None:
        """POST /abort_request. A worker that cannot be reached has nothing to abort; that is only logged."""
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                response = await self.connections.post(url, "/abort_request", orjson.dumps(what))
                try:
                    await response.read()
                finally:
                    response.close()
        except (aiohttp.ClientError, OSError) as e:
            self._log.event("abort_failed", url=url, why=describe(e), **what)

    def close(self) -> None:
        """Close the connections that are kept."""
        self.connections.close()


def describe(error: Exception) -> str:
    """An error as a person reads it; aiohttp's own texts are long, or missing."""
    match error:
        case NotConnectedError():
            return str(error)
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {error.host}:{error.port} ({error.os_error.strerror or error.os_error})"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "the connection broke in the middle of an answer"
        case TimeoutError():
            return "timed out"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _first_event(content: aiohttp.StreamReader) -> bytes:
    """A stream's bytes up to the end of its first event, and whatever came with it."""
    head = b""
    while b"\n\n" not in head:
        chunk = await content.readany()
        if not chunk:
            raise aiohttp.ClientPayloadError("the stream ended before its first token")
        head += chunk
    return head
