"""The page `/tasks`: for each task its pools, workers, paths and requests, over all processes of the router."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from aiohttp import web
from pydantic import ValidationError

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.contracts.modules_report import ModulesReport
from sun_sglang.contracts.tasks_report import (
    AdapterReport,
    ModuleReport,
    OfferedReport,
    PoolReport,
    ProvenPath,
    TaskReport,
    TasksReport,
    UnprovenAdapter,
    UnprovenModule,
    UnprovenPath,
    WorkerModules,
    WorkerReport,
)
from sun_sglang.router.api.endpoints.generation import Draining
from sun_sglang.router.api.siblings.merging import merge_tasks
from sun_sglang.router.api.siblings.sibling_processes import SiblingProcesses
from sun_sglang.router.dispatch.legs.cache_namespace import cache_namespace
from sun_sglang.router.health.path_prover import PathProver
from sun_sglang.router.health.task_weights.weights_prover import WeightsProver
from sun_sglang.router.serving.admission.admission_queue import AdmissionQueue
from sun_sglang.router.serving.admission.work_estimate import WorkEstimate
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.task_weights.kind import Kind, kind_of
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import UnusablePath, WorkerPath


class _Lacking(NamedTuple):
    """A worker that cannot serve weights: the values of `UnprovenAdapter` and `UnprovenModule`."""

    worker: str
    name: str
    why: str
    times: int
    refused: bool


class TasksPage:
    """Produces the report `contracts.tasks_report.TasksReport`.

    Args:
        registry: workers and paths.
        path_prover: the results of canaries.
        weights_prover: the results of the weights of tasks.
        in_flight: requests of clients.
        queue: answers that wait for a slot.
        estimate: counts the work that clients offer.
        siblings: the other processes of the router.
        draining: whether the router drains.
    """

    def __init__(
        self,
        registry: Registry,
        path_prover: PathProver,
        weights_prover: WeightsProver,
        in_flight: InFlight,
        queue: AdmissionQueue,
        estimate: WorkEstimate,
        siblings: SiblingProcesses,
        draining: Draining,
    ) -> None:
        self._registry = registry
        self._path_prover = path_prover
        self._weights_prover = weights_prover
        self._in_flight = in_flight
        self._queue = queue
        self._estimate = estimate
        self._siblings = siblings
        self._draining = draining

    async def get(self, http: web.Request) -> web.Response:
        """GET /tasks."""
        others = await self._siblings.broadcast("GET", "/tasks", http.headers)
        merged = merge_tasks(self.report(), [_read_report(body) for body in others.values()])
        return web.Response(body=merged.model_dump_json().encode(), content_type="application/json")

    def report(self) -> TasksReport:
        """Return the report of this process."""
        in_flight = Counter(ticket.task for ticket in self._in_flight.tickets)
        # hundreds of tasks may share a few pools, so each pool and each set of paths is rendered once
        pool, proven, unproven = cache(self._pool), cache(_proven), cache(self._unproven)
        tasks = {}
        # a new task that this process does not serve yet is shown with the reasons
        for name, task in {**self._registry.wanted.tasks, **self._registry.fleet.tasks}.items():
            pairs, lacking = self._registry.usable(name), self._lacking(name)
            tasks[name] = TaskReport(
                ready=bool(pairs),
                prefill=pool(task.prefill),
                decode=pool(task.decode),
                paths=proven(tuple(pair.path for pair in pairs)),
                unproven_paths=unproven(self._registry.unusable(name)),
                queued=self._queue.waiting(name),
                in_flight=in_flight[name],
                namespace=self._namespace(task),
                adapter=_adapter(task.adapter),
                unproven_adapters=tuple(
                    UnprovenAdapter(
                        worker=one.worker, adapter=one.name, why=one.why, times=one.times, refused=one.refused
                    )
                    for one in lacking["adapter"]
                ),
                module=_module(task.module),
                unproven_modules=tuple(
                    UnprovenModule(
                        worker=one.worker, module=one.name, why=one.why, times=one.times, refused=one.refused
                    )
                    for one in lacking["module"]
                ),
                moving=self._registry.fleet.tasks.get(name) != self._registry.wanted.tasks.get(name),
            )
        offered = {pool: OfferedReport(**demand._asdict()) for pool, demand in self._estimate.offered.items()}
        ready = not self._registry.unserved()
        return TasksReport(ready=ready, draining=self._draining.active, tasks=tasks, offered=offered)

    def _namespace(self, task: FleetTask) -> str | None:
        modules = (w.card.module for w in self._registry.members(task.prefill) if w.card and w.admitted)
        module = next(modules, None)
        return None if module is None else cache_namespace(task.prefill, module, weights=task.weights)

    def _unproven(self, paths: tuple[UnusablePath, ...]) -> tuple[UnprovenPath, ...]:
        return tuple(self._unproven_path(path, refusal) for path, refusal in paths)

    def _unproven_path(self, path: WorkerPath, refusal: str) -> UnprovenPath:
        why, times = (refusal, 0) if refusal else self._path_prover.last_fault(path)
        return UnprovenPath(prefill=path.prefill, decode=path.decode, why=why, times=times, refused=bool(refusal))

    def _lacking(self, task: str) -> Mapping[Kind, Sequence[_Lacking]]:
        """Return the workers that lack a task's own weights, those of a change under way included."""
        lacking: dict[Kind, list[_Lacking]] = {"adapter": [], "module": []}
        for pool, weights in {(settings.prefill, settings.weights) for settings in self._registry.settings(task)}:
            if weights is None:
                continue
            for worker, refusal in self._registry.weights.obstacles(pool, weights):
                why, times = refusal, 0
                if not refusal:
                    why, times = self._weights_prover.last_fault(self._registry.workers[worker], weights)
                lacking[kind_of(weights)].append(_Lacking(worker, weights.name, why, times, bool(refusal)))
        return lacking

    def _pool(self, name: str) -> PoolReport:
        members = (self._worker(worker) for worker in self._registry.members(name))
        pool = self._registry.fleet.pools.get(name) or self._registry.wanted.pools[name]
        return PoolReport(pool=name, model=pool.model, workers=tuple(members))

    def _worker(self, worker: Worker) -> WorkerReport:
        return WorkerReport(
            name=worker.name,
            url=worker.spec.url,
            state=self._registry.state(worker.name).value,
            reason=worker.reason,
            incarnation=worker.card.incarnation if worker.card else None,
            in_flight=worker.load.total_requests,
            tokens=worker.load.total_tokens,
            steps=worker.decode_steps.report(),
            modules=_worker_modules(worker.modules.report),
        )


def _adapter(adapter: AdapterRef | None) -> AdapterReport | None:
    if adapter is None:
        return None
    return AdapterReport(
        name=adapter.name,
        directory=adapter.directory,
        rank=adapter.rank,
        fingerprint=adapter.fingerprint is not None,
    )


def _module(module: ModuleRef | None) -> ModuleReport | None:
    if module is None:
        return None
    return ModuleReport(revision=module.revision, directory=module.directory, size=module.size)


def _worker_modules(report: ModulesReport | None) -> WorkerModules | None:
    if report is None:
        return None
    return WorkerModules(
        loaded=report.loaded,
        own=report.own,
        held=report.held,
        queued=report.queued,
        host_bytes=report.host_bytes,
        changes=sum(one.changes for one in report.changed.values()),
        change_seconds=report.change_seconds,
    )


def _proven(paths: tuple[WorkerPath, ...]) -> tuple[ProvenPath, ...]:
    return tuple(ProvenPath(prefill=path.prefill, decode=path.decode) for path in paths)


def _read_report(body: bytes | None) -> TasksReport | None:
    """Return the report of a sibling process; None if it sent none."""
    try:
        return None if body is None else TasksReport.model_validate_json(body)
    except ValidationError:
        return None
