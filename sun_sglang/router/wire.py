"""The one module that talks to workers on behalf of requests: two legs, and aborts."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import aiohttp
import orjson

from sun_sglang.router.attempt import Attempt
from sun_sglang.router.log import Log
from sun_sglang.router.verdict import Lost, Reply

# Below uvicorn's 5 s, so that a request is not written to a connection that the worker is just closing.
KEEPALIVE_S = 3.0
CONNECT_TIMEOUT_S = 2.0
ABORT_TIMEOUT_S = 5.0
_JSON = {"Content-Type": "application/json"}
# aiohttp warns about larger bodies in one piece; as a file they are written bit by bit
_PIECE = 1 << 20


def new_session() -> aiohttp.ClientSession:
    """The one client session of a router. Deadlines are the dispatcher's; only connecting has one of its own."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=1 << 18)


class Wire:
    """Sends legs and aborts. What a leg says goes to its attempt; nothing is decided here."""

    def __init__(self, session: aiohttp.ClientSession, log: Log) -> None:
        self._session = session
        self._log = log

    async def prefill(self, attempt: Attempt, body: bytes) -> str:
        """The prefill leg, to its end. Returns `ok`, `refused` (4xx), `failed` (5xx) or `lost`."""
        url = attempt.pair.prefill.spec.url + attempt.call.endpoint
        try:
            async with await self._post(url, body) as response:
                attempt.hear("prefill", Reply(response.status, await response.read()))
                return "ok" if response.status == 200 else "refused" if response.status < 500 else "failed"
        except (aiohttp.ClientError, OSError) as e:
            attempt.hear("prefill", Lost(describe(e), refused=isinstance(e, aiohttp.ClientConnectorError)))
            return "lost"

    async def decode(self, attempt: Attempt, body: bytes) -> None:
        """The decode leg: a whole answer, or a stream up to its first event; the rest is read by whoever serves it."""
        url = attempt.pair.decode.spec.url + attempt.call.endpoint
        try:
            response = await self._post(url, body)
            attempt.response = response
            if response.status == 200 and attempt.call.stream:
                attempt.hear("decode", Reply(200, await _first_event(response.content), streamed=True))
            else:
                attempt.hear("decode", Reply(response.status, await response.read()))
        except (aiohttp.ClientError, OSError) as e:
            attempt.hear("decode", Lost(describe(e), refused=isinstance(e, aiohttp.ClientConnectorError)))

    async def _post(self, url: str, body: bytes) -> aiohttp.ClientResponse:
        """Send a leg. One that got no answer at all is sent once more, on a new connection.

        uvicorn closes an idle connection, and any connection after a 500, without a word; a request that was just
        written to it is lost. A server that died refuses the second connection, and the first error stands.
        """
        try:
            return await self._session.post(url, data=_payload(body), headers=_JSON)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as first:
            self._log.event("leg_sent_again", url=url, why=describe(first))
            try:
                return await self._session.post(url, data=_payload(body), headers=_JSON | {"Connection": "close"})
            except aiohttp.ClientConnectorError:
                raise first from None

    async def abort(self, url: str, what: dict[str, Any]) -> None:
        """POST /abort_request. A worker that cannot be reached has nothing to abort; that is only logged."""
        try:
            async with (
                asyncio.timeout(ABORT_TIMEOUT_S),
                self._session.post(url + "/abort_request", data=orjson.dumps(what), headers=_JSON) as response,
            ):
                await response.read()
        except (aiohttp.ClientError, OSError) as e:
            self._log.event("abort_failed", url=url, why=describe(e), **what)


def describe(error: Exception) -> str:
    """An error as a person reads it; aiohttp's own texts are long, or missing."""
    match error:
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


def _payload(body: bytes) -> bytes | io.BytesIO:
    return body if len(body) < _PIECE else io.BytesIO(body)
