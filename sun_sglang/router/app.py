"""The HTTP surface: one thin handler for each endpoint, and one place where an error becomes a response."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp import web

from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.errors import RequestError
from sun_sglang.router.api.admin import AdminHandlers
from sun_sglang.router.api.client_connections import ConnectionManager, most_connections
from sun_sglang.router.api.info import InfoHandlers
from sun_sglang.router.api.merging import merge_metrics
from sun_sglang.router.api.sibling_processes import SiblingProcesses
from sun_sglang.router.api.slow_readers import SlowReaderDetector
from sun_sglang.router.auth.access import (
    AccessControl,
    current_key,
    load_access_control,
    load_tls_context,
    require_admin,
)
from sun_sglang.router.auth.browser_guard import BrowserGuard, require_json
from sun_sglang.router.auth.key_file_watcher import KeyFileWatcher
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import DEFAULT, Deadlines
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.errors import ApiError, internal_error
from sun_sglang.router.health.card_reader import CardReader
from sun_sglang.router.health.load_monitor import LoadMonitor
from sun_sglang.router.health.path_prover import PathProver
from sun_sglang.router.health.prober import Prober
from sun_sglang.router.health.stall_detector import StallDetector
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics, RequestContext, current_context
from sun_sglang.router.observability.request_id import (
    REQUEST_ID_HEADER,
    RandomBytes,
    choose_request_id,
    current_request_id,
)
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.worker_replies import parse_json
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.serving.admission import AdmissionQueue
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.serving.length_check import LengthChecker
from sun_sglang.router.serving.service import Service, request_outcome
from sun_sglang.router.serving.tracing import load_tracing
from sun_sglang.router.transport.http_session import new_session
from sun_sglang.router.transport.worker_client import WorkerClient
from sun_sglang.router.workers.fleet_store import FleetStore
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.shared_loads import SharedLoads

_GENERATION = frozenset(Endpoint)


class Watcher(Protocol):
    """A loop that runs as long as the router does."""

    async def run(self) -> None:
        """Run until cancelled."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Router:
    """A running router: everything it is made of, and its end.

    Attributes:
        app: the aiohttp application.
        registry: workers and paths.
        metrics: what was counted.
        failed: set when one of the loops that watch over workers ended, which none should.
    """

    def __init__(
        self,
        fleet: Fleet,
        session: aiohttp.ClientSession,
        log: Log,
        access: AccessControl,
        tls: ssl.SSLContext | None,
        path: Path | None,
        process: int,
        deadlines: Deadlines,
    ) -> None:
        self.fleet = fleet
        self._access = access
        names = (fleet.router.host, socket.gethostname(), *fleet.router.hosts)
        self._browsers = None if access.requires_keys else BrowserGuard(names, tls=tls is not None)
        self._tls = tls
        self.log = log
        self.metrics = Metrics()
        self.registry = Registry(fleet, deadlines)
        selector = PairSelector(fleet.router.policy, random.Random())
        self.clock = Clock(asyncio.get_running_loop(), lambda seconds: log.event("paused", seconds=round(seconds, 3)))
        client = WorkerClient(log, self.clock, deadlines)
        self.dispatcher = Dispatcher(client, self.registry, selector, self.metrics, log, self.clock, deadlines)
        self.card_reader = CardReader(session, self.clock, fleet.router.probe_interval, deadlines)
        self.prober = Prober(self.card_reader, self.registry, self.dispatcher, self.metrics, log)
        self.path_prover = PathProver(self.registry, self.dispatcher, self.metrics, log, deadlines)
        self.stalls = StallDetector(session, fleet.router, self.dispatcher, deadlines)
        self.loads = LoadMonitor(session, self.registry, self.clock, deadlines)
        self.deliveries = SlowReaderDetector(fleet.router.write_timeout, self.clock, log, deadlines)
        self.inflight = InFlight()
        self.queue = AdmissionQueue(self.registry, self.metrics, self.clock)
        self.siblings = SiblingProcesses(_sockets(path, process, fleet.router.processes), deadlines)
        self._process = process
        self._shared = _share(self.registry, path, process, deadlines)
        self.info = InfoHandlers(
            session,
            self.registry,
            self.path_prover,
            self.inflight,
            self.queue,
            self.siblings,
            deadlines,
            shows_tasks=not access.requires_keys,
        )
        self.store = FleetStore(self.registry, path, log, deadlines)
        self.admin = AdminHandlers(self.registry, self.store)
        self.length_check = LengthChecker(session, self.registry, log, deadlines)
        self.service = Service(
            self.dispatcher,
            self.queue,
            self.inflight,
            self.metrics,
            self.registry,
            self.length_check,
            selector.needs_keys,
            log,
        )
        self.service.tracing = load_tracing(os.environ)
        self._session = session
        self.failed = asyncio.Event()
        self._random_bytes = RandomBytes()
        self._watchers: list[asyncio.Task[None]] = []
        self._runner = web.AppRunner(
            self._application(),
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=deadlines.shutdown,
            # a kilobyte may unpack to a megabyte; SGLang unpacks no body either
            auto_decompress=False,
        )
        # generation requests from their complete header on
        self._answering = 0
        self._answered = asyncio.Event()
        self._answered.set()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = most_connections(descriptors)
        self.clients = ConnectionManager(self._connection, tls, most, self.clock.now, self.metrics, log, deadlines)

    @classmethod
    async def start(
        cls, fleet: Fleet, log: Log, path: Path | None = None, process: int = 0, deadlines: Deadlines = DEFAULT
    ) -> Router:
        """Bind the port and begin to register workers.

        Args:
            fleet: what to serve.
            log: where to write.
            path: the file that the fleet came from, which is watched, and which changes are written to. Where the
                router has several processes, they meet in its directory.
            process: which of them this is, from 0.
            deadlines: every timeout and interval that the fleet does not set.

        Raises:
            OSError: the address cannot be bound.
            UserError: a file of keys or certificates is wrong.
        """
        access, tls = load_access_control(fleet, os.environ), load_tls_context(fleet.router)
        router = cls(fleet, new_session(deadlines), log, access, tls, path, process, deadlines)
        await router._runner.setup()
        try:
            host, port = fleet.router.host, fleet.router.port
            several = fleet.router.processes > 1
            await router.clients.listen(host, port, shared=several)
            if several and path is not None:
                own = _socket(path, process)
                own.unlink(missing_ok=True)
                await web.UnixSite(router._runner, router.siblings.address(own)).start()
        except BaseException:
            await router.stop(0.0)
            raise
        keys = KeyFileWatcher(fleet.router.api_keys, os.environ, access, log, deadlines)
        watchers: tuple[Watcher, ...] = (
            *(router.clients, router.deliveries, router.prober, router.path_prover, router.stalls, router.loads),
            *(router.store, keys),
        )
        if router._shared is not None:
            watchers += (router._shared,)
        router._watchers = [asyncio.create_task(router._watch(watcher.run())) for watcher in watchers]
        log.event("listening", url=router.url, tasks=list(fleet.tasks))
        return router

    @property
    def url(self) -> str:
        """Where the router listens, with the port that it got."""
        host, port = self.clients.address
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def connections(self) -> list[web.RequestHandler]:
        """The connections of clients."""
        assert self._runner.server is not None, "the router was started"
        return self._runner.server.connections

    async def stop(self, drain: float) -> None:
        """Take no more requests, let those in flight end for `drain` seconds, tell the rest, and close.

        A request whose body is arriving is in flight.
        """
        self.info.draining = True
        self.log.event("draining", in_flight=self._answering, seconds=drain)
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self._answered.wait()
        left = self._answering
        self.clients.close()
        ending = ApiError(503, "the router is shutting down", code="draining")
        self.clients.cut(ending)
        self.queue.close(ending)
        self.dispatcher.cut_all("the router is shutting down")
        # handlers write their explicit errors while the runner waits for them
        await self._runner.cleanup()
        for task in self._watchers:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.dispatcher.attempts.close()
        self.clock.close()
        await self._session.close()
        await self.siblings.close()
        if self._shared is not None:
            self._shared.close()
        self.log.event("stopped", cut_off=left)

    async def _watch(self, run: Coroutine[None, None, None]) -> None:
        try:
            await run
        except Exception as e:
            # without it the router would go on with what it knew last
            self.log.event("defect", path="", trace="".join(traceback.format_exception(e)))
            self.failed.set()

    # --- handlers -----------------------------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        app = web.Application(
            client_max_size=int(self.fleet.router.max_body_mb * (1 << 20)), middlewares=[self._timed, self._problems]
        )
        app.on_response_prepare.append(_name)
        for endpoint in Endpoint:
            app.router.add_post(endpoint, self._generation(endpoint), expect_handler=meet_expectation)
        generate = self._generation(Endpoint.GENERATE)
        app.router.add_put(Endpoint.GENERATE, generate, expect_handler=meet_expectation)
        info = self.info
        for path, handler in {
            "/tasks": info.tasks,
            "/workers": self.admin.workers,
            "/v1/models": info.models,
            "/v1/models/{model:.+}": info.model,
            "/health": info.health,
            "/health_generate": info.health_generate,
            "/model_info": info.model_info,
            "/get_model_info": info.model_info,
            "/server_info": info.server_info,
            "/get_server_info": info.server_info,
            "/flush_cache": info.flush_cache,
            "/metrics": self._metrics,
        }.items():
            app.router.add_get(path, handler, expect_handler=meet_expectation)
        app.router.add_post("/flush_cache", info.flush_cache, expect_handler=meet_expectation)
        app.router.add_post("/abort_request", self._abort, expect_handler=meet_expectation)
        app.router.add_routes(self.admin.routes())
        return app

    def _generation(self, endpoint: Endpoint) -> Handler:
        async def handle(http: web.Request) -> web.StreamResponse:
            if self.info.draining:
                raise ApiError(503, "the router is shutting down", code="draining")
            require_json(http)
            self._answering += 1
            self._answered.clear()
            try:
                return await self.service.handle(endpoint, http, current_key.get())
            finally:
                self._answering -= 1
                if not self._answering:
                    self._answered.set()

        return handle

    async def _metrics(self, http: web.Request) -> web.Response:
        page = self.metrics.page(
            self.registry, self.inflight, self.dispatcher.attempts, self.log.lost, self.clients.counts()
        )
        others = await self.siblings.ask("GET", "/metrics", http.headers)
        if others:
            pages = {self._process: page} | {i: other for i, other in others.items() if other is not None}
            page = merge_metrics(dict(sorted(pages.items())))
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _abort(self, http: web.Request) -> web.Response:
        """POST /abort_request: {"rid": a client's own id} or {"abort_all": true}. An unknown id is ignored."""
        require_json(http)
        raw = await http.read()
        body = parse_json(raw)
        rid = body.get("rid") if isinstance(body, dict) else None
        everything = body.get("abort_all", False) if isinstance(body, dict) else None
        if not isinstance(everything, bool) or not isinstance(rid, str | None):
            raise ApiError(400, 'send {"rid": "..."} or {"abort_all": true}')
        key = current_key.get()
        if everything:
            require_admin(key)
        owner = "" if key is None else None if key.admin else key.name
        for ticket in list(self.inflight.tickets if everything else self.inflight.find(rid or "", owner)):
            self.dispatcher.abort(ticket)
        if everything:
            self.dispatcher.attempts.abort_everywhere()
        await self.siblings.ask("POST", "/abort_request", http.headers, raw)
        return web.Response()

    def _connection(self) -> web.RequestHandler:
        assert self._runner.server is not None, "connections are accepted after the set-up and before the end"
        return self._runner.server()

    @web.middleware
    async def _timed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Time the request's connection."""
        connection = self.clients.busy(request)
        try:
            response = await handler(request)
            if connection is not None and connection.is_cut:
                response.force_close()
            return response
        finally:
            if connection is not None:
                self.clients.waits(connection)

    @web.middleware
    async def _problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        account, name = RequestContext(), choose_request_id(request.headers.get(REQUEST_ID_HEADER), self._random_bytes)
        current_context.set(account)
        current_request_id.set(name)
        self.deliveries.begin(request, account, name)
        try:
            if self._browsers is not None:
                self._browsers.check(request.method, request.path, request.headers)
            current_key.set(self._access.check(request.path, request.headers))
            if (encoding := request.headers.get("Content-Encoding", "identity").lower()) not in ("identity", ""):
                message = f"a body in the encoding `{encoding}` is not read; send it without `Content-Encoding`"
                raise ApiError(415, message, code="unsupported_encoding")
            return await handler(request)
        except ApiError as error:
            return self._refuse(request, error)
        except RequestError as e:
            return self._refuse(request, ApiError.of(e))
        except web.HTTPRequestEntityTooLarge:
            most = self.fleet.router.max_body_mb
            return self._refuse(request, ApiError(413, f"the body is over {most:g} MiB", code="body_too_large"))
        except web.HTTPNotFound:
            return self._refuse(
                request, ApiError(404, f"there is no {request.method} {request.path}", code="not_found")
            )
        except web.HTTPMethodNotAllowed as e:
            allowed = ", ".join(sorted(e.allowed_methods))
            return self._refuse(request, ApiError(405, f"{request.path} takes {allowed}", code="method_not_allowed"))
        except web.HTTPException as e:
            return self._refuse(request, ApiError(e.status, e.reason))
        except web.RequestPayloadError as e:
            return self._refuse(request, ApiError(400, f"the body cannot be read: {e}", code="invalid_body"))
        except (ConnectionError, asyncio.CancelledError):
            self._count_leaving(request)
            raise
        except Exception as e:
            self.log.event("defect", path=request.path, trace="".join(traceback.format_exception(e)))
            return self._refuse(request, internal_error())

    def _count_leaving(self, request: web.Request) -> None:
        """A client left before its request was read: nobody else knows of it."""
        account = current_context.get()
        if request.path in _GENERATION and not account.outcome_counted:
            self.metrics.requests.labels(account.task, "disconnected").inc()

    def _refuse(self, request: web.Request, error: ApiError) -> web.Response:
        if request.path in _GENERATION:
            account = current_context.get()
            self.metrics.problems.labels(account.task, str(error.status)).inc()
            if not account.outcome_counted:
                self.metrics.requests.labels(account.task, request_outcome(error)).inc()
        return _respond(error)


async def meet_expectation(request: web.Request) -> None:
    """Answer `Expect: 100-continue`, and nothing else a client may expect.

    aiohttp's own handler refuses the rest by echoing the header, which fails on bytes that are no text, with a 500.
    """
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # what was written is no part of the answer
        request.writer.output_size = 0


def _socket(path: Path, process: int) -> Path:
    return path.with_name(f"router-{process}.sock")


def _sockets(path: Path | None, process: int, processes: int) -> dict[int, Path]:
    """Where the other processes of this router listen."""
    return {i: _socket(path, i) for i in range(processes) if i != process} if path is not None else {}


def _share(registry: Registry, path: Path | None, process: int, deadlines: Deadlines) -> SharedLoads | None:
    """Let the processes of one router see each other's load on every worker, those that come later included."""
    processes = registry.fleet.router.processes
    if path is None or processes == 1:
        return None
    shared = SharedLoads(path.with_name("router.loads"), process, processes, deadlines)
    for worker in registry.workers.values():
        worker.load.share(shared)
    registry.on_added.append(lambda worker: worker.load.share(shared))
    return shared


async def _name(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[REQUEST_ID_HEADER] = current_request_id.get()


def _respond(error: ApiError) -> web.Response:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return web.Response(body=error.as_json(), status=error.status, content_type="application/json", headers=headers)
