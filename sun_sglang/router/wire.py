"""The one module that talks to workers on behalf of requests: two legs, and aborts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson

from sun_sglang.router.bounded import OversizedError
from sun_sglang.router.connections import CONNECT_TIMEOUT_S, KEEPALIVE_S, Connections
from sun_sglang.router.exchange import Exchange
from sun_sglang.router.log import Log
from sun_sglang.router.verdict import Lost, Reply

ABORT_TIMEOUT_S = 5.0


def new_session() -> aiohttp.ClientSession:
    """The client session for all that is no leg. Only connecting has a deadline of its own.

    Bodies are not decompressed: a small compressed reply could fill the memory.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    headers = {"Accept-Encoding": "identity"}
    return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers, auto_decompress=False)


class Wire:
    """Sends legs and aborts. What a leg says goes to whoever sent it; nothing is decided here.

    Attributes:
        connections: to the workers.
    """

    def __init__(self, log: Log) -> None:
        self.connections = Connections()
        self._log = log

    def send(
        self, base: str, path: str, body: bytes, heard: Callable[[Lost | Reply], None], *, streams: bool = False
    ) -> Exchange:
        """Send a request to a worker; see `Exchange`."""

        def again(why: str) -> None:
            self._log.event("leg_sent_again", url=base + path, why=why)

        return Exchange(self.connections.origin(base), path, body, heard, streams=streams, again=again)

    async def abort(self, url: str, what: dict[str, Any]) -> None:
        """POST /abort_request. A worker that cannot be reached has nothing to abort; that is only logged."""
        said: asyncio.Future[Lost | Reply] = asyncio.get_running_loop().create_future()
        exchange = self.send(url, "/abort_request", orjson.dumps(what), said.set_result)
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                outcome = await said
        except TimeoutError:
            outcome = Lost("timed out")
        finally:
            exchange.close()
        if isinstance(outcome, Lost):
            self._log.event("abort_failed", url=url, why=outcome.detail, **what)

    def close(self) -> None:
        """Close the connections that are kept."""
        self.connections.close()


def describe(error: Exception) -> str:
    """An error of a client session as a person reads it; aiohttp's own texts are long, or missing."""
    match error:
        case OversizedError():
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
