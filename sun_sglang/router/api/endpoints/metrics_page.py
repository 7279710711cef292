"""The page `/metrics`: counters, and gauges that are computed from current state at scrape time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from aiohttp import web
from prometheus_client import generate_latest

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.router.api.connections.connection_manager import ConnectionManager
from sun_sglang.router.api.siblings.merging import merge_metrics
from sun_sglang.router.api.siblings.sibling_processes import SiblingProcesses
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.legs.leg_bodies import LEGS
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.serving.admission.work_estimate import WorkEstimate
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import State


class MetricsPage:
    """Serves the metrics of all processes of the router.

    Args:
        metrics: counters and gauges of this process.
        registry: workers and their load.
        in_flight: requests of clients.
        dispatcher: attempts that run on workers.
        estimate: counts the work that clients offer.
        lost_log_lines: log lines lost so far, by reason.
        clients: client connections.
        siblings: the other processes.
        process: the number of this process, the value of the label `process` where there are several.
    """

    def __init__(
        self,
        metrics: Metrics,
        registry: Registry,
        in_flight: InFlight,
        dispatcher: Dispatcher,
        estimate: WorkEstimate,
        lost_log_lines: Mapping[str, int],
        clients: ConnectionManager,
        siblings: SiblingProcesses,
        process: int,
    ) -> None:
        self._metrics = metrics
        self._registry = registry
        self._in_flight = in_flight
        self._dispatcher = dispatcher
        self._estimate = estimate
        self._offered_before: dict[str, Demand] = {}
        self._lost_log_lines = lost_log_lines
        self._lost_before: Counter[str] = Counter()
        self._clients = clients
        self._siblings = siblings
        self._process = process

    async def get(self, http: web.Request) -> web.Response:
        """GET /metrics."""
        page = self.render()
        others = await self._siblings.broadcast("GET", "/metrics", http.headers)
        if others:
            pages = {self._process: page} | {i: other for i, other in others.items() if other is not None}
            page = merge_metrics(dict(sorted(pages.items())))
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4"})

    def render(self) -> bytes:
        """Return the page of this process."""
        self._update_process()
        self._update_requests()
        self._update_workers()
        self._update_modules()
        self._update_offered()
        return generate_latest(self._metrics.registry)

    def _update_process(self) -> None:
        for state, count in self._clients.counts().items():
            self._metrics.connections.labels(state).set(count)
        for why, count in tuple(self._lost_log_lines.items()):
            self._metrics.log_lines_lost.labels(why).inc(count - self._lost_before[why])
            self._lost_before[why] = count

    def _update_requests(self) -> None:
        metrics = self._metrics
        metrics.in_flight.clear()
        metrics.leg_in_flight.clear()
        counted = (attempt for attempt in self._dispatcher.attempts if attempt.ticket.counted)
        legs = Counter((a.request.task, leg) for a in counted for leg in LEGS if a.holds(leg))
        for task in (*self._registry.task_names, *self._registry.leaving):
            metrics.in_flight.labels(task).set(self._in_flight.requests[task])
            for leg in LEGS:
                metrics.leg_in_flight.labels(task, leg).set(legs[task, leg])

    def _update_workers(self) -> None:
        metrics = self._metrics
        metrics.workers.clear()
        metrics.worker_in_flight.clear()
        metrics.worker_tokens.clear()
        for worker in self._registry.workers.values():
            metrics.worker_in_flight.labels(worker.name).set(worker.load.total_requests)
            metrics.worker_tokens.labels(worker.name).set(worker.load.total_tokens)
            current = self._registry.state(worker.name)
            for state in State:
                metrics.workers.labels(worker.name, worker.spec.pool, worker.role, state).set(state is current)

    def _update_offered(self) -> None:
        self._metrics.wanted_workers.clear()
        for name, settings in self._registry.fleet.pools.items():
            if settings.wanted_workers is not None:
                self._metrics.wanted_workers.labels(name).set(settings.wanted_workers)
        for pool, demand in self._estimate.offered.items():
            new = demand.minus(self._offered_before.get(pool, Demand()))
            self._offered_before[pool] = demand
            self._metrics.offered_answers.labels(pool).inc(new.answers)
            self._metrics.offered_tokens.labels(pool).inc(new.tokens)
            self._metrics.offered_context_tokens.labels(pool).inc(new.context_tokens)
            self._metrics.offered_context_squares.labels(pool).inc(new.context_squares)

    def _update_modules(self) -> None:
        """Set the gauges of modules, by what this process sent and by the last report of each worker."""
        metrics = self._metrics
        for gauge in (
            metrics.module_requests,
            metrics.module_queued,
            metrics.module_host_bytes,
        ):
            gauge.clear()
        for worker in self._registry.workers.values():
            for module, count in worker.modules.requests.items():
                metrics.module_requests.labels(worker.name, module or "own").set(count)
            report = worker.modules.report
            if report is not None:
                metrics.module_host_bytes.labels(worker.name).set(report.host_bytes)
                for module, count in report.queued.items():
                    metrics.module_queued.labels(worker.name, module).set(count)
