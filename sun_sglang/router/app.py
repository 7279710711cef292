"""The running router: construct every part, start the background loops, and drain at the end."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import aiohttp
from aiohttp import web

from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.checkpoint.module.fit import require_equal_model
from sun_sglang.checkpoint.module.read import read_module
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.api.connections.client_handler import HANDLER_SETTINGS, ClientHandler
from sun_sglang.router.api.connections.connection_manager import ConnectionManager, most_connections
from sun_sglang.router.api.connections.slow_readers import SlowReaderDetector
from sun_sglang.router.api.endpoints.admin import AdminHandlers
from sun_sglang.router.api.endpoints.generation import Draining, GenerationHandlers
from sun_sglang.router.api.endpoints.health import HealthHandlers
from sun_sglang.router.api.endpoints.info import InfoHandlers
from sun_sglang.router.api.endpoints.metrics_page import MetricsPage
from sun_sglang.router.api.endpoints.task_admin import TaskHandlers
from sun_sglang.router.api.endpoints.tasks_page import TasksPage
from sun_sglang.router.api.endpoints.tokens import TokenHandlers
from sun_sglang.router.api.endpoints.weights_reader import WeightsReader
from sun_sglang.router.api.expectations import refuse_other_expectations
from sun_sglang.router.api.middleware import Middleware, add_request_id
from sun_sglang.router.api.preflight import cors_signal, preflight_routes
from sun_sglang.router.api.routes import RouteTable, route_table
from sun_sglang.router.api.siblings.sibling_processes import SiblingProcesses, socket_path
from sun_sglang.router.auth.access import (
    AccessControl,
    load_access_control,
    load_tls_context,
)
from sun_sglang.router.auth.browser_guard import BrowserGuard
from sun_sglang.router.auth.cors import CrossOriginPolicy
from sun_sglang.router.auth.key_file_watcher import KeyFileWatcher
from sun_sglang.router.background_loops import BackgroundLoops
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import DEFAULT, Deadlines
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.card_reader import CardReader
from sun_sglang.router.health.load_monitor import LoadMonitor
from sun_sglang.router.health.path_prover import PathProver
from sun_sglang.router.health.prober import Prober
from sun_sglang.router.health.stall_detector import StallDetector
from sun_sglang.router.health.task_weights.clients.adapter_client import AdapterClient
from sun_sglang.router.health.task_weights.clients.module_client import ModuleClient
from sun_sglang.router.health.task_weights.clients.weights_client import WeightsClient
from sun_sglang.router.health.task_weights.monitors.adapter_monitor import AdapterMonitor
from sun_sglang.router.health.task_weights.monitors.module_monitor import ModuleMonitor
from sun_sglang.router.health.task_weights.task_trial import TaskTrials
from sun_sglang.router.health.task_weights.weights_prover import WeightsProver
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.serving.admission.admission_queue import AdmissionQueue
from sun_sglang.router.serving.admission.length_check import LengthChecker
from sun_sglang.router.serving.admission.tokenizer_client import TokenizerClient
from sun_sglang.router.serving.admission.work_estimate import WorkEstimate
from sun_sglang.router.serving.delivery.delivery import Delivery
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.serving.reporting.request_end import RequestEndReporter
from sun_sglang.router.serving.reporting.tracing import load_tracing
from sun_sglang.router.serving.service import Service
from sun_sglang.router.transport.http_session import new_session
from sun_sglang.router.transport.worker_client import WorkerClient
from sun_sglang.router.workers.fleet_store import FleetStore
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.shared_loads import SharedLoads


class Router:
    """A running router; `start` constructs it.

    Args:
        fleet: the tasks, pools and workers to serve.
        session: sends the router's own requests to workers.
        log: receives events.
        access: checks clients' keys.
        tls: for HTTPS; None for plain HTTP.
        path: the fleet file; None if there is none.
        process: the number of this process, from 0.
        deadlines: every timeout and interval that the fleet does not set.

    Attributes:
        application: the aiohttp application.
        routes: its endpoints.
        registry: workers and paths.
        metrics: the metrics of this process.
        loops: the background loops; `loops.failed` is set when one raised an exception.
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
        self._tls = tls
        self._session = session
        self.fleet = fleet
        self.log = log
        self.loops = BackgroundLoops(log)
        self.metrics = Metrics()
        self.registry = Registry(fleet, deadlines)
        selector = PairSelector(fleet.router.policy, random.Random())
        self.clock = Clock(asyncio.get_running_loop(), lambda seconds: log.event("paused", seconds=round(seconds, 3)))
        client = WorkerClient(log, self.clock, deadlines)
        self.dispatcher = Dispatcher(client, self.registry, selector, self.metrics, log, self.clock, deadlines)
        self.card_reader = CardReader(session, self.clock, fleet.router.probe_interval, deadlines)
        self.prober = Prober(self.card_reader, self.registry, self.dispatcher, self.metrics, log)
        self.path_prover = PathProver(self.registry, self.dispatcher, self.metrics, log, deadlines)
        clients = (AdapterClient(session, self.clock, deadlines), ModuleClient(session, self.clock, deadlines))
        self.weights_prover = WeightsProver(
            self.registry, self.dispatcher, WeightsClient(*clients), self.metrics, log, deadlines
        )
        self.module_monitor = ModuleMonitor(session, self.registry, self.metrics, log, deadlines)
        self.adapter_monitor = AdapterMonitor(session, self.registry, self.metrics, log, deadlines)
        self.stall_detector = StallDetector(session, fleet.router, self.dispatcher, deadlines)
        self.load_monitor = LoadMonitor(session, self.registry, self.clock, deadlines)
        self.slow_readers = SlowReaderDetector(fleet.router.write_timeout, self.clock, log, deadlines)
        self.in_flight = InFlight()
        self.queue = AdmissionQueue(self.registry, self.metrics, self.clock)
        self.siblings = SiblingProcesses(path, process, fleet.router.processes, deadlines)
        self._shared = _share(self.registry, path, process, deadlines)
        self.store = FleetStore(self.registry, path, log, deadlines, self.in_flight.has)
        self.length_check = LengthChecker(session, self.registry, log, deadlines)
        self.tokenizer_client = TokenizerClient(session, self.registry, deadlines)
        estimate = WorkEstimate(self.registry)
        delivery = Delivery(self.dispatcher, estimate, self.metrics, log)
        reporter = RequestEndReporter(
            self.metrics, log, log_all=fleet.router.log_requests, tracing=load_tracing(os.environ)
        )
        self.service = Service(
            self.dispatcher,
            self.queue,
            self.in_flight,
            self.metrics,
            self.registry,
            self.length_check,
            selector.needs_keys,
            estimate,
            delivery,
            reporter,
        )
        self.draining = Draining()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = most_connections(descriptors)
        self._cors = CrossOriginPolicy(fleet.router.cors)
        self.clients = ConnectionManager(
            self._connection, tls, most, self.clock.now, self.metrics, log, deadlines, self._cors
        )
        self.info = InfoHandlers(session, self.registry, self.path_prover, deadlines)
        trials = TaskTrials(self.registry, self.path_prover, self.weights_prover, self.clock, deadlines)
        names = (fleet.router.host, socket.gethostname(), *fleet.router.hosts)
        guard = None if access.requires_keys else BrowserGuard(names, tls=tls is not None)
        routes = route_table(
            GenerationHandlers(self.service, self.dispatcher, self.in_flight, self.siblings, self.draining),
            TokenHandlers(self.registry, self.length_check, self.tokenizer_client, self.clock.now),
            self.info,
            HealthHandlers(self.registry, self.draining, self.siblings, access),
            AdminHandlers(self.registry, self.store),
            TaskHandlers(
                self.registry,
                self.store,
                trials,
                self.in_flight,
                WeightsReader(read_adapter, read_module, require_equal_model),
            ),
            TasksPage(
                self.registry,
                self.path_prover,
                self.weights_prover,
                self.in_flight,
                self.queue,
                estimate,
                self.siblings,
                self.draining,
            ),
            MetricsPage(
                self.metrics,
                self.registry,
                self.in_flight,
                self.dispatcher,
                estimate,
                log.lost,
                self.clients,
                self.siblings,
                process,
            ),
        )
        self.routes = RouteTable((*routes, *preflight_routes(routes, self._cors, guard)))
        self.application = self._application(access, guard)
        self._runner = web.AppRunner(
            self.application,
            handler_cancellation=True,
            shutdown_timeout=deadlines.shutdown,
            **HANDLER_SETTINGS,
        )

    def _application(self, access: AccessControl, guard: BrowserGuard | None) -> web.Application:
        settings = self.fleet.router
        middleware = Middleware(
            self.routes,
            access,
            guard,
            self.clients,
            self.slow_readers,
            self.metrics,
            self.log,
            settings.max_body_mb,
        )
        app = web.Application(
            client_max_size=int(settings.max_body_mb * (1 << 20)),
            middlewares=[middleware.track_connection, middleware.handle_errors],
        )
        app.on_response_prepare.append(add_request_id)
        if self._cors.is_enabled:
            app.on_response_prepare.append(cors_signal(self.routes, self._cors))
        self.routes.register(app)
        return app

    @classmethod
    async def start(
        cls, fleet: Fleet, log: Log, path: Path | None = None, process: int = 0, deadlines: Deadlines = DEFAULT
    ) -> Router:
        """Start a router: bind the port and start the background loops.

        Args:
            fleet: the tasks, pools and workers to serve.
            log: receives events.
            path: the fleet file, which the router watches and to which it writes changes. The processes of one router
                share sockets and loads in its directory.
            process: the number of this process, from 0.
            deadlines: every timeout and interval that the fleet does not set.

        Raises:
            OSError: the address cannot be bound.
            UserError: a file of keys or certificates is invalid.
        """
        access, tls = load_access_control(fleet, os.environ), load_tls_context(fleet.router)
        router = cls(fleet, new_session(deadlines), log, access, tls, path, process, deadlines)
        await router._runner.setup()
        assert router._runner.server is not None, "it was set up"
        router._runner.server.request_handler = refuse_other_expectations(router._runner.server.request_handler)
        try:
            host, port = fleet.router.host, fleet.router.port
            several = fleet.router.processes > 1
            await router.clients.listen(host, port, shared=several)
            if several and path is not None:
                own = socket_path(path, process)
                own.unlink(missing_ok=True)
                await web.UnixSite(router._runner, router.siblings.address(own)).start()
        except BaseException:
            await router.stop(0.0)
            raise
        keys = KeyFileWatcher(fleet.router.api_keys, os.environ, access, log, deadlines)
        provers = (router.path_prover, router.weights_prover)
        watches = (router.prober, *provers, router.stall_detector, router.load_monitor)
        monitors = (router.adapter_monitor, router.module_monitor)
        shared = () if router._shared is None else (router._shared,)
        router.loops.start((router.clients, router.slow_readers, *watches, *monitors, router.store, keys, *shared))
        log.event("listening", url=router.url, tasks=list(fleet.tasks))
        return router

    @property
    def url(self) -> str:
        """URL of the router, with the port that was bound."""
        host, port = self.clients.address
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def connections(self) -> list[web.RequestHandler]:
        """Aiohttp's handlers of the open client connections."""
        assert self._runner.server is not None, "the router was started"
        return self._runner.server.connections

    async def stop(self, drain: float) -> None:
        """Drain and close the router.

        New requests are refused. Requests in flight, including those whose body is incomplete, have `drain` seconds to
        end; the router answers the rest with an error.
        """
        self.draining.active = True
        self.log.event("draining", in_flight=self.draining.in_progress, seconds=drain)
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self.draining.wait_idle()
        left = self.draining.in_progress
        self.clients.close()
        ending = ApiError(503, "the router is shutting down", code="draining")
        self.clients.cut(ending)
        self.queue.close(ending)
        self.dispatcher.cut_all("the router is shutting down")
        # handlers write their errors while the runner waits for them
        await self._runner.cleanup()
        await self.loops.stop()
        await self.dispatcher.attempts.close()
        self.clock.close()
        await self._session.close()
        await self.siblings.close()
        if self._shared is not None:
            self._shared.close()
        self.log.event("stopped", cut_off=left)

    def _connection(self) -> web.RequestHandler:
        assert self._runner.server is not None, "connections are accepted after the set-up and before the end"
        return ClientHandler(self._runner.server, self.clients.count_ended, self.log, self.clients.error_headers)


def _share(registry: Registry, path: Path | None, process: int, deadlines: Deadlines) -> SharedLoads | None:
    """Share the load on every worker, including workers added later, among the processes of one router."""
    processes = registry.fleet.router.processes
    if path is None or processes == 1:
        return None
    shared = SharedLoads(path.with_name("router.loads"), process, processes, deadlines)
    for worker in registry.workers.values():
        worker.load.share(shared)
    registry.on_added.append(lambda worker: worker.load.share(shared))
    return shared
