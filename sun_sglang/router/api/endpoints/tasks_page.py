"""The page `/tasks`: for each task its pools, workers, paths and requests, over all processes of the router."""

from __future__ import annotations

from collections import Counter
from functools import cache

from aiohttp import web
from pydantic import ValidationError

from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.contracts.tasks_report import (
    PoolReport,
    ProvenPath,
    TaskReport,
    TasksReport,
    UnprovenPath,
    WorkerReport,
)
from sun_sglang.router.api.endpoints.generation import Draining
from sun_sglang.router.api.responses import json_response
from sun_sglang.router.api.siblings.merging import merge_tasks
from sun_sglang.router.api.siblings.sibling_processes import SiblingProcesses
from sun_sglang.router.dispatch.legs.cache_namespace import cache_namespace
from sun_sglang.router.health.path_prover import PathProver
from sun_sglang.router.serving.admission.admission_queue import AdmissionQueue
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair, UnusablePath, WorkerPath


class TasksPage:
    """Produces the report `contracts.tasks_report.TasksReport`.

    Args:
        registry: workers and paths.
        path_prover: the results of canaries.
        in_flight: requests of clients.
        queue: answers that wait for a slot.
        siblings: the other processes of the router.
        draining: whether the router drains.
    """

    def __init__(
        self,
        registry: Registry,
        path_prover: PathProver,
        in_flight: InFlight,
        queue: AdmissionQueue,
        siblings: SiblingProcesses,
        draining: Draining,
    ) -> None:
        self._registry = registry
        self._path_prover = path_prover
        self._in_flight = in_flight
        self._queue = queue
        self._siblings = siblings
        self._draining = draining

    async def get(self, http: web.Request) -> web.Response:
        """GET /tasks."""
        others = await self._siblings.broadcast("GET", "/tasks", http.headers)
        merged = merge_tasks(self.report(), [_read_report(body) for body in others.values()])
        return json_response(merged.model_dump())

    def report(self) -> TasksReport:
        """Return the report of this process."""
        in_flight = Counter(ticket.task for ticket in self._in_flight.tickets)
        # hundreds of tasks may share a few pools, so each pool and each set of paths is rendered once
        pool, proven, unproven = cache(self._pool), cache(_proven), cache(self._unproven)
        tasks = {}
        for name in self._registry.task_names:
            task, pairs = self._registry.fleet.tasks[name], self._registry.usable(name)
            tasks[name] = TaskReport(
                ready=bool(pairs),
                prefill=pool(task.prefill),
                decode=pool(task.decode),
                paths=proven(pairs),
                unproven_paths=unproven(self._registry.unusable(name)),
                queued=self._queue.waiting(name),
                in_flight=in_flight[name],
                namespace=self._namespace(task),
            )
        return TasksReport(ready=not self._registry.unserved(), draining=self._draining.active, tasks=tasks)

    def _namespace(self, task: FleetTask) -> str | None:
        modules = (w.card.module for w in self._registry.members(task.prefill) if w.card and w.admitted)
        module = next(modules, None)
        return None if module is None else cache_namespace(task.prefill, module, adapter=task.adapter)

    def _unproven(self, paths: tuple[UnusablePath, ...]) -> tuple[UnprovenPath, ...]:
        return tuple(self._unproven_path(path, refusal) for path, refusal in paths)

    def _unproven_path(self, path: WorkerPath, refusal: str) -> UnprovenPath:
        why, times = (refusal, 0) if refusal else self._path_prover.last_fault(path)
        return UnprovenPath(prefill=path.prefill, decode=path.decode, why=why, times=times, refused=bool(refusal))

    def _pool(self, name: str) -> PoolReport:
        members = (self._worker(worker) for worker in self._registry.members(name))
        return PoolReport(pool=name, model=self._registry.fleet.pools[name].model, workers=tuple(members))

    def _worker(self, worker: Worker) -> WorkerReport:
        return WorkerReport(
            name=worker.name,
            url=worker.spec.url,
            state=self._registry.state(worker.name).value,
            reason=worker.reason,
            incarnation=worker.card.incarnation if worker.card else None,
            in_flight=worker.load.total_requests,
        )


def _proven(pairs: tuple[Pair, ...]) -> tuple[ProvenPath, ...]:
    return tuple(ProvenPath(prefill=pair.prefill.name, decode=pair.decode.name) for pair in pairs)


def _read_report(body: bytes | None) -> TasksReport | None:
    """Return the report of a sibling process; None if it sent none."""
    try:
        return None if body is None else TasksReport.model_validate_json(body)
    except ValidationError:
        return None
