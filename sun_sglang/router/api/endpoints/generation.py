"""Requests for text, and their aborts."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler

from sun_sglang.router.api.endpoints.small_body import read_small
from sun_sglang.router.api.siblings.sibling_processes import SiblingProcesses
from sun_sglang.router.auth.access import current_key, require_admin
from sun_sglang.router.auth.browser_guard import require_json
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.request import Endpoint, Translate
from sun_sglang.router.protocol.worker_replies import parse_json
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.serving.service import Service


class Draining:
    """Counts generation requests from their complete header to their end, and refuses new ones once the router drains.

    Attributes:
        active: the router accepts no new requests.
        in_progress: requests that have not ended.
    """

    def __init__(self) -> None:
        self.active = False
        self.in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin_request(self) -> None:
        """Count a request that begins.

        Raises:
            ApiError: 503, the router drains.
        """
        if self.active:
            raise ApiError(503, "the router is shutting down", code="draining")
        self.in_progress += 1
        self._idle.clear()

    def end_request(self) -> None:
        """Count a request that has ended."""
        self.in_progress -= 1
        if not self.in_progress:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no request is in progress."""
        await self._idle.wait()


class GenerationHandlers:
    """Handlers of the endpoints that generate text, and of `/abort_request`.

    Args:
        service: serves requests for text.
        dispatcher: aborts requests.
        in_flight: finds requests by a client's id.
        siblings: the other processes of the router, which receive every abort too.
        draining: counts requests and refuses new ones.
    """

    def __init__(
        self,
        service: Service,
        dispatcher: Dispatcher,
        in_flight: InFlight,
        siblings: SiblingProcesses,
        draining: Draining,
    ) -> None:
        self._service = service
        self._dispatcher = dispatcher
        self._in_flight = in_flight
        self._siblings = siblings
        self._draining = draining

    def endpoint(self, endpoint: Endpoint, translate: Translate | None = None) -> Handler:
        """Return the handler of one endpoint.

        Args:
            endpoint: the endpoint of the workers.
            translate: makes a request of `endpoint` from a body of another API; None for the endpoint itself.
        """

        async def handle(http: web.Request) -> web.StreamResponse:
            self._draining.begin_request()
            try:
                require_json(http)
                return await self._service.handle(endpoint, http, current_key.get(), translate)
            finally:
                self._draining.end_request()

        return handle

    async def abort(self, http: web.Request) -> web.Response:
        """POST /abort_request: {"rid": a client's own id} or {"abort_all": true}. An unknown id is ignored."""
        raw = await read_small(http)
        body = parse_json(raw)
        rid = body.get("rid") if isinstance(body, dict) else None
        everything = body.get("abort_all", False) if isinstance(body, dict) else None
        if not isinstance(everything, bool) or not isinstance(rid, str | None):
            raise ApiError(400, 'send {"rid": "..."} or {"abort_all": true}')
        key = current_key.get()
        if everything:
            require_admin(key)
        owner = "" if key is None else None if key.admin else key.name
        for ticket in list(self._in_flight.tickets if everything else self._in_flight.find(rid or "", owner)):
            self._dispatcher.abort(ticket)
        if everything:
            self._dispatcher.attempts.abort_everywhere()
        await self._siblings.broadcast("POST", "/abort_request", http.headers, raw)
        return web.Response()
