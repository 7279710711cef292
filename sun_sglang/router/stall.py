"""Answers that make no progress: streams that bring nothing, and decode workers that stand still. I/O: `/v1/loads`."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import aiohttp

from sun_sglang.router.dispatch import Dispatcher
from sun_sglang.router.loads import ask_load
from sun_sglang.router.metrics import Metrics
from sun_sglang.router.registry import Registry, Worker

LOADS_TIMEOUT_S = 5.0


class _Seen(NamedTuple):
    stamp: object
    since: float


class StallWatch:
    """Ends what has made no progress for `idle_timeout`.

    A stream shows its progress itself. A whole answer shows nothing until its last token, so its decode worker is
    asked: SGLang stamps its load with each batch (srt/managers/scheduler.py: publish_load_snapshot), and a worker that
    owes tokens and runs no batch hangs, even while its HTTP server answers.
    """

    def __init__(
        self, session: aiohttp.ClientSession, registry: Registry, dispatcher: Dispatcher, metrics: Metrics
    ) -> None:
        self._session = session
        self._registry = registry
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._idle = registry.fleet.router.idle_timeout
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._idle / 4))
            now = self._dispatcher.now()
            owing: dict[str, Worker] = {}
            for attempt in tuple(self._dispatcher.attempts):
                if attempt.reading_since is not None and now - attempt.reading_since > self._idle:
                    attempt.cut_off(f"no token for {self._idle:g} s")
                if attempt.owed_since is not None and now - attempt.owed_since > self._idle / 2:
                    owing[attempt.pair.decode.name] = attempt.pair.decode
            self._seen = {name: seen for name, seen in self._seen.items() if name in owing}
            await asyncio.gather(*(self._look(worker) for worker in owing.values()))

    async def _look(self, worker: Worker) -> None:
        load = await ask_load(self._session, worker, LOADS_TIMEOUT_S)
        if load is None or load.stamp is None:
            # its probe judges that
            return
        now = self._dispatcher.now()
        seen = self._seen.get(worker.name)
        if seen is None or seen.stamp != load.stamp:
            self._seen[worker.name] = _Seen(load.stamp, now)
        elif now - seen.since > self._idle / 2:
            self._metrics.ejections.labels(worker.name).inc()
            self._registry.lose(worker.name, f"it owes tokens and ran no batch for {self._idle / 2:g} s", gone=True)
