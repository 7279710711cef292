"""Read which modules prefill workers have loaded and which wait, and count the changes. I/O: `GET /sun/modules`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from sun_sglang.contracts.module import MODULES_PATH
from sun_sglang.contracts.modules_report import Changes, ModulesReport
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.health.task_weights.monitors.page_reader import PageReader
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker


class ModuleMonitor:
    """Reads the page of every prefill worker that takes modules, each `load_interval`.

    Args:
        session: sends the requests.
        registry: the workers.
        metrics: counts the changes by worker.
        log: receives the first failure of each start of a worker.
        deadlines: the limit for a page.
    """

    def __init__(
        self, session: aiohttp.ClientSession, registry: Registry, metrics: Metrics, log: Log, deadlines: Deadlines
    ) -> None:
        self._reader = PageReader(session, MODULES_PATH, ModulesReport, "modules_unreadable", log, deadlines)
        self._registry = registry
        self._metrics = metrics
        self._interval = registry.fleet.router.load_interval
        # the incarnation and the last numbers of each worker
        self._counted: dict[str, tuple[str, Mapping[str, Changes]]] = {}

    async def run(self) -> None:
        """Read the pages until cancelled; return at once if the interval is 0."""
        while self._interval:
            await asyncio.sleep(self._interval)
            self._forget()
            await asyncio.gather(*map(self._read, self._workers()))

    def _workers(self) -> list[Worker]:
        return [w for w in self._registry.workers.values() if w.card is not None and w.card.modules is not None]

    async def _read(self, worker: Worker) -> None:
        incarnation = worker.incarnation
        worker.modules.begin_report()
        report = await self._reader.read(worker)
        if worker.incarnation != incarnation:
            # the worker has restarted, and what is known of it was cleared
            return
        worker.modules.end_report(report)
        if report is not None:
            self._count(worker.name, incarnation, report.changed)

    def _count(self, worker: str, incarnation: str, changed: Mapping[str, Changes]) -> None:
        """Count the changes since the last page. A restarted worker counts from 0."""
        start, before = self._counted.get(worker, ("", {}))
        self._counted[worker] = incarnation, changed
        for revision, now in changed.items():
            last = before.get(revision) if start == incarnation else None
            changes = now.changes - (last.changes if last else 0)
            if changes > 0:
                seconds = now.seconds - (last.seconds if last else 0.0)
                self._metrics.module_changes.labels(worker).inc(changes)
                self._metrics.module_change_seconds.labels(worker).inc(max(0.0, seconds))

    def _forget(self) -> None:
        self._reader.keep(self._registry.workers)
        for name in [name for name in self._counted if name not in self._registry.workers]:
            del self._counted[name]
