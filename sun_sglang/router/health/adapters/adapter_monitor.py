"""Read which adapters prefill workers hold in slots, and count the cold loads. I/O: `GET /sun/adapters`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import aiohttp
from pydantic import ValidationError

from sun_sglang.contracts.adapters_report import ADAPTERS_PATH, AdaptersReport, ColdLoads
from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.transport.http_session import describe_error, read_at_most
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker

# A name and its numbers take about a hundred bytes.
MAX_PAGE_BYTES = 1 << 23


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
        self._session = session
        self._registry = registry
        self._metrics = metrics
        self._log = log
        self._deadlines = deadlines
        self._interval = registry.fleet.router.load_interval
        # the incarnation and the last numbers of each worker
        self._counted: dict[str, tuple[str, Mapping[str, ColdLoads]]] = {}
        self._unreadable: dict[str, str] = {}
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
            if worker.card is not None and worker.card.adapters and self._registry.adapters.needed(worker.spec.pool)
        ]

    async def _read(self, worker: Worker) -> None:
        incarnation = worker.incarnation
        worker.resident.begin_report()
        report = await self._fetch(worker)
        if report is None or worker.incarnation != incarnation:
            return
        worker.resident.end_report(report.resident)
        self._count(worker.name, incarnation, report.cold)

    async def _fetch(self, worker: Worker) -> AdaptersReport | None:
        """Return a worker's page; None without one. A worker that does not answer is the prober's matter."""
        url, timeout = worker.spec.url + ADAPTERS_PATH, aiohttp.ClientTimeout(total=self._deadlines.load_report)
        headers = worker.spec.headers
        try:
            async with self._session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                body = await read_at_most(response, MAX_PAGE_BYTES)
                if response.status == 200:
                    return AdaptersReport.model_validate_json(body)
                why = f"it answered {response.status}"
        except ValidationError:
            why = "its page is not valid"
        except (aiohttp.ClientError, OSError) as e:
            why = describe_error(e)
        if self._unreadable.get(worker.name) != worker.incarnation:
            self._unreadable[worker.name] = worker.incarnation
            self._log.event("adapters_unreadable", worker=worker.name, why=why)
        return None

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
        for name in [name for name in self._unreadable if name not in self._registry.workers]:
            del self._unreadable[name]


def _by_adapter(tasks: Mapping[str, FleetTask]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, task in tasks.items():
        if task.adapter is not None:
            found[task.adapter.name].append(name)
    return found
