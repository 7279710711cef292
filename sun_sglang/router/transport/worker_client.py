"""The one module that talks to workers on behalf of requests: two legs, and aborts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from sun_sglang.router.protocol.worker_replies import parse_json
from sun_sglang.router.transport.bounded_read import OversizedError
from sun_sglang.router.transport.connection_pool import ConnectionPool
from sun_sglang.router.transport.exchange import LegExchange
from sun_sglang.router.transport.messages import LegFailure, LegResult


def new_session(deadlines: Deadlines) -> aiohttp.ClientSession:
    """The client session for all that is no leg. Only connecting has a deadline of its own.

    No body is decompressed and no cookie is kept: a small compressed reply could fill the memory, and cookies could.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=deadlines.keepalive)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=deadlines.connect)
    headers = {"Accept-Encoding": "identity"}
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=headers,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class WorkerClient:
    """Sends legs and aborts. What a leg says goes to whoever sent it; nothing is decided here.

    Attributes:
        pool: connections to the workers.
    """

    def __init__(self, log: Log, clock: Clock, deadlines: Deadlines) -> None:
        self.pool = ConnectionPool(clock, deadlines)
        self._deadlines = deadlines
        self._clock = clock
        self._log = log

    def send(
        self,
        worker: FleetWorker,
        path: str,
        body: bytes,
        heard: Callable[[LegResult], None],
        *,
        most: int,
        streams: bool = False,
        fresh: bool = False,
    ) -> LegExchange:
        """Send a leg to a worker; see `LegExchange`."""
        origin = self.pool.origin(worker.url, worker.key)
        return LegExchange(origin, path, body, heard, streams=streams, fresh=fresh, most=most)

    async def abort(self, worker: FleetWorker, what: dict[str, Any]) -> None:
        """POST /abort_request. An abort is idempotent, so it is sent again where a kept connection was closed.

        A worker that cannot be reached has nothing to abort; that is only logged.
        """
        body = orjson.dumps(what)
        outcome = await self._ask(worker, "/abort_request", body, self._deadlines.abort)
        if isinstance(outcome, LegFailure) and outcome.stale:
            outcome = await self._ask(worker, "/abort_request", body, self._deadlines.abort, fresh=True)
        if isinstance(outcome, LegFailure):
            self._log.event("abort_failed", url=worker.url, why=outcome.detail, **what)

    async def incarnation(self, worker: FleetWorker) -> str | None:
        """Read the incarnation of the worker process that listens now; None if no process answers in time.

        The connection is new: an answer proves that the process lives after this call began.
        """
        outcome = await self._ask(worker, WORKER_CARD_PATH, None, self._deadlines.liveness, fresh=True)
        if isinstance(outcome, LegFailure) or outcome.status != HTTPStatus.OK:
            return None
        card = parse_json(outcome.head)
        incarnation = card.get("incarnation") if isinstance(card, dict) else None
        return incarnation if isinstance(incarnation, str) else None

    async def _ask(
        self, worker: FleetWorker, path: str, body: bytes | None, seconds: float, *, fresh: bool = False
    ) -> LegResult:
        said: asyncio.Future[LegResult] = asyncio.get_running_loop().create_future()

        def heard(outcome: LegResult) -> None:
            # the deadline may cancel the future in the same turn of the loop
            if not said.done():
                said.set_result(outcome)

        exchange = LegExchange(self.pool.origin(worker.url, worker.key), path, body, heard, fresh=fresh)
        try:
            async with self._clock.timeout(seconds):
                return await said
        except TimeoutError:
            return LegFailure("timed out")
        finally:
            exchange.close()

    def close(self) -> None:
        """Close the connections that are kept."""
        self.pool.close()


def describe_error(error: Exception) -> str:
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
