"""Read which adapters prefill workers hold in slots, and count the cold loads. I/O: `GET /sun/adapters`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import aiohttp

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.adapters_report import ADAPTERS_PATH, AdaptersReport, ColdLoads
from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.health.task_weights.monitors.page_reader import PageReader
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker


class AdapterMonitor:
    """Reads the page of every prefill worker whose pool has tasks with adapters, each `load_interval`.

    Args:
        session: sends the requests.
        registry: the workers, and the tasks of adapters.
        metrics: counts the cold loads by task.
        log: receives the first failure of each start of a worker.
        deadlines: the limit for a page.
    """

    def __init__(
        self, session: aiohttp.ClientSession, registry: Registry, metrics: Metrics, log: Log, deadlines: Deadlines
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._reader = PageReader(session, ADAPTERS_PATH, AdaptersReport, "adapters_unreadable", log, deadlines)
        self._interval = registry.fleet.router.load_interval
        # the incarnation and the last numbers of each worker
        self._counted: dict[str, tuple[str, Mapping[str, ColdLoads]]] = {}
        self._tasks: tuple[object, Mapping[str, Sequence[str]]] = (None, {})

    async def run(self) -> None:
        """Read the pages until cancelled; return at once if the interval is 0."""
        while self._interval:
            await asyncio.sleep(self._interval)
            self._forget()
            await asyncio.gather(*map(self._read, self._workers()))

    def _workers(self) -> list[Worker]:
        return [
            worker
            for worker in self._registry.workers.values()
            if worker.card is not None and worker.card.adapters and self._has_adapters(worker.spec.pool)
        ]

    def _has_adapters(self, pool: str) -> bool:
        return any(isinstance(weights, AdapterRef) for weights in self._registry.weights.needed(pool))

    async def _read(self, worker: Worker) -> None:
        incarnation = worker.incarnation
        worker.resident.begin_report()
        report = await self._reader.read(worker)
        if report is None or worker.incarnation != incarnation:
            return
        worker.resident.end_report(report.resident)
        self._count(worker.name, incarnation, report.cold)

    def _count(self, worker: str, incarnation: str, cold: Mapping[str, ColdLoads]) -> None:
        """Count the cold loads since the last page. A restarted worker counts from 0."""
        start, before = self._counted.get(worker, ("", {}))
        self._counted[worker] = incarnation, cold
        for name, now in cold.items():
            last = before.get(name) if start == incarnation else None
            loads = now.loads - (last.loads if last else 0)
            seconds = now.seconds - (last.seconds if last else 0.0)
            if loads <= 0:
                continue
            for task in self._tasks_of().get(name, ()):
                self._metrics.adapter_cold_loads.labels(task).inc(loads)
                self._metrics.adapter_cold_seconds.labels(task).inc(max(0.0, seconds))

    def _tasks_of(self) -> Mapping[str, Sequence[str]]:
        """Return the tasks of each adapter by the adapter's name."""
        tasks = self._registry.fleet.tasks
        if self._tasks[0] is not tasks:
            self._tasks = tasks, _by_adapter(tasks)
        return self._tasks[1]

    def _forget(self) -> None:
        for name in [name for name in self._counted if name not in self._registry.workers]:
            del self._counted[name]
        self._reader.keep(self._registry.workers)


def _by_adapter(tasks: Mapping[str, FleetTask]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, task in tasks.items():
        if task.adapter is not None:
            found[task.adapter.name].append(name)
    return found
