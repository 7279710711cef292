"""Measure the load that other senders put on the workers."""

from __future__ import annotations

import asyncio

import aiohttp

from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.health.load_report import LoadReport, fetch_load
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker


class LoadMonitor:
    """Sets the external load of each worker: of another router, or of a client that bypasses the router.

    A report does not distinguish the senders, so the external load is what a worker reports beyond this router's own
    load on it. The router counts whole answers where clients limit them, so the external load is rather too low; where
    clients set no limit it counts prompts alone, and the report makes up for the answers.

    Args:
        session: sends requests for load reports.
        registry: the workers.
        clock: for the time of a worker's progress.
        deadlines: the limit for a load report.
    """

    def __init__(self, session: aiohttp.ClientSession, registry: Registry, clock: Clock, deadlines: Deadlines) -> None:
        self._session = session
        self._clock = clock
        self._deadlines = deadlines
        self._registry = registry
        self._interval = registry.fleet.router.load_interval
        self._stamps: dict[str, object] = {}

    async def run(self) -> None:
        """Read the load of every present worker each `load_interval`, until cancelled; return at once if it is 0."""
        while self._interval:
            await asyncio.sleep(self._interval)
            present = [w for w in self._registry.workers.values() if w.card is not None]
            await asyncio.gather(*(self._measure(worker) for worker in present))

    async def _measure(self, worker: Worker) -> None:
        before = worker.load.router_total
        # no reply counts as no load; the probe decides whether such a worker is gone
        report = await fetch_load(self._session, worker.spec, self._deadlines.load_report) or LoadReport(0, 0)
        if report.requests and report.stamp != self._stamps.get(worker.name):
            # it ran a batch: a worker with full batches is slow, and does not hang
            worker.note_progress(self._clock.now())
        self._stamps[worker.name] = report.stamp
        if report.decode is not None and worker.role == "decode":
            worker.decode_steps.note(report.decode)
        # a request that came or went meanwhile may or may not be in the report, so the larger count is subtracted
        after = worker.load.router_total
        own_requests, own_tokens = max(before[0], after[0]), max(before[1], after[1])
        worker.load.set_external(max(0, report.requests - own_requests), max(0, report.tokens - own_tokens))
