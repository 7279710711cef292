"""Send legs and aborts to workers. No other module talks to workers on behalf of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from sun_sglang.router.protocol.worker_replies import parse_json
from sun_sglang.router.transport.connection_pool import ConnectionPool
from sun_sglang.router.transport.leg_exchange import LegExchange
from sun_sglang.router.transport.messages import LegFailure, LegResult


class WorkerClient:
    """Sends legs and aborts. It reports results and decides nothing.

    Args:
        log: for aborts that failed.
        clock: for limits on replies.
        deadlines: `connect`, `keepalive`, `abort` and `liveness`.

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
        on_result: Callable[[LegResult], None],
        *,
        max_bytes: int,
        streams: bool = False,
        fresh: bool = False,
    ) -> LegExchange:
        """Send a leg to a worker.

        Args:
            worker: its URL and key.
            path: on the worker.
            body: JSON.
            on_result: called once with the response or the failure; see `LegExchange`.
            max_bytes: bound of a response that is not streamed.
            streams: a response of status 200 is a stream.
            fresh: open a new connection instead of using an idle one.
        """
        origin = self.pool.origin(worker.url, worker.key)
        return LegExchange(origin, path, body, on_result, streams=streams, fresh=fresh, max_bytes=max_bytes)

    async def abort(self, worker: FleetWorker, what: dict[str, Any]) -> None:
        """Send `POST /abort_request`.

        An abort is idempotent, so it is sent again if an idle connection was closed. A worker that cannot be reached
        has nothing to abort; the failure is only logged.

        Args:
            worker: its URL and key.
            what: the body: `{"rid": ...}` or `{"abort_all": True}`.
        """
        body = orjson.dumps(what)
        result = await self._request(worker, "/abort_request", body, self._deadlines.abort)
        if isinstance(result, LegFailure) and result.stale:
            result = await self._request(worker, "/abort_request", body, self._deadlines.abort, fresh=True)
        if isinstance(result, LegFailure):
            self._log.event("abort_failed", url=worker.url, why=result.detail, **what)

    async def incarnation(self, worker: FleetWorker) -> str | None:
        """Return the incarnation of the worker process that listens now; None if no process answers in time.

        The connection is new, so a reply proves that the process was alive after this call began.
        """
        result = await self._request(worker, WORKER_CARD_PATH, None, self._deadlines.liveness, fresh=True)
        if isinstance(result, LegFailure) or result.status != HTTPStatus.OK:
            return None
        card = parse_json(result.head)
        incarnation = card.get("incarnation") if isinstance(card, dict) else None
        return incarnation if isinstance(incarnation, str) else None

    async def _request(
        self, worker: FleetWorker, path: str, body: bytes | None, seconds: float, *, fresh: bool = False
    ) -> LegResult:
        received: asyncio.Future[LegResult] = asyncio.get_running_loop().create_future()

        def on_result(result: LegResult) -> None:
            # the timeout may cancel the future in the same turn of the loop
            if not received.done():
                received.set_result(result)

        exchange = LegExchange(self.pool.origin(worker.url, worker.key), path, body, on_result, fresh=fresh)
        try:
            async with self._clock.timeout(seconds):
                return await received
        except TimeoutError:
            return LegFailure("timed out")
        finally:
            exchange.close()

    def close(self) -> None:
        """Close the idle connections."""
        self.pool.close()
