"""Probe every worker at an interval, and admit or eject it by its card."""

from __future__ import annotations

import asyncio

from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.health.card_reader import CardReader, ProbeError
from sun_sglang.router.health.wake_up import wait
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import State, Worker
from sun_sglang.router.workers.worker_paths import WorkerPath

# A busy server answers late; only this many silent probes in a row mean that it hangs.
SILENT_PROBES = 3


class Prober:
    """Keeps a registry in step with the workers.

    A probe reads the worker's card each `probe_interval`: the page is static and cheap, and its incarnation
    distinguishes a restart from a pause. A broken connection ejects the worker at once.

    Args:
        reader: reads the cards.
        registry: the workers.
        dispatcher: reports whether a silent worker makes progress with requests.
        metrics: counts ejections.
        log: receives each change of a worker's state.
    """

    def __init__(
        self, reader: CardReader, registry: Registry, dispatcher: Dispatcher, metrics: Metrics, log: Log
    ) -> None:
        self._reader = reader
        self._registry = registry
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._log = log
        self._interval = registry.fleet.router.probe_interval
        self._wake_ups: dict[str, asyncio.Event] = {}
        self._group: asyncio.TaskGroup | None = None
        self._states: dict[str, tuple[State, str]] = {}
        registry.on_ejected.append(self._wake)
        registry.on_added.append(self._start)
        registry.on_proven.append(self._log_path)

    async def run(self) -> None:
        """Probe every worker until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for worker in self._registry.workers.values():
                self._start(worker)
            # a fleet may have no workers, and get some later
            await asyncio.Event().wait()

    def _start(self, worker: Worker) -> None:
        if self._group is not None:
            wake_up = self._wake_ups[worker.name] = asyncio.Event()
            self._group.create_task(self._watch(worker, wake_up))

    def _wake(self, name: str) -> None:
        if (wake_up := self._wake_ups.get(name)) is not None:
            wake_up.set()

    async def _watch(self, worker: Worker, wake_up: asyncio.Event) -> None:
        silent = 0
        while self._is_present(worker):
            silent = await self._probe(worker, silent)
            self._registry.progress()
            if self._is_present(worker):
                self._log_state(worker)
                wake_up.clear()
                await wait(wake_up, self._interval)
        if self._wake_ups.get(worker.name) is wake_up:
            del self._wake_ups[worker.name]
            self._states.pop(worker.name, None)
        self._log.event("worker_removed", worker=worker.name, pool=worker.spec.pool)

    async def _probe(self, worker: Worker, silent: int) -> int:
        """Probe a worker once, and return how many silent probes in a row count now."""
        sent, clock_sent = self._dispatcher.attempts.now(), self._dispatcher.attempts.clock.now()
        try:
            card = await self._reader.read(worker.spec)
        except ProbeError as error:
            if not self._is_present(worker):
                return silent
            busy = worker.load.is_tokenizing(sent) or self._dispatcher.attempts.last_progress(worker) >= clock_sent
            silent = count_silent(silent, error, busy=busy)
            if silent >= SILENT_PROBES:
                self._eject(worker, error)
            return silent
        if self._is_present(worker):
            self._admit(worker, card)
        return 0

    def _is_present(self, worker: Worker) -> bool:
        return self._registry.workers.get(worker.name) is worker

    def _admit(self, worker: Worker, card: WorkerCard) -> None:
        # a refused worker is judged again each time: the cause may have been another worker, which has left
        if not worker.admitted or card != worker.card:
            self._registry.admit(worker.name, card)

    def _eject(self, worker: Worker, error: ProbeError) -> None:
        if worker.card is not None:
            self._metrics.ejections.labels(worker.name).inc()
            self._registry.eject(worker.name, str(error), gone=True)
        worker.note_no_card(str(error), invalid=error.invalid)

    def _log_path(self, path: WorkerPath) -> None:
        for name in path:
            if (worker := self._registry.workers.get(name)) is not None:
                self._log_state(worker)

    def _log_state(self, worker: Worker) -> None:
        now = (self._registry.state(worker.name), worker.reason)
        if self._states.get(worker.name) != now:
            self._states[worker.name] = now
            self._log.event("worker", worker=worker.name, pool=worker.spec.pool, state=now[0], reason=now[1])


def count_silent(silent: int, error: ProbeError, *, busy: bool) -> int:
    """Return how many silent probes in a row count after one more failed.

    Args:
        silent: how many counted before.
        error: how the probe failed.
        busy: the worker had long prompts to tokenize and answers no probe meanwhile, or it answered requests.
    """
    if error.local:
        return silent
    if not error.silent:
        return SILENT_PROBES
    return silent if busy else silent + 1
