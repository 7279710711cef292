"""Give every prefill worker the adapters of its tasks: load, prove, and unload them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.router.adapters.limits import adapter_fault
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.health.adapters.adapter_client import AdapterClient
from sun_sglang.router.health.adapters.effect_check import EffectCheck
from sun_sglang.router.health.adapters.worker_start import WorkerStart, uses_adapter
from sun_sglang.router.health.failure import MAX_FAULT, Failure, next_failure
from sun_sglang.router.health.wake_up import wait
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.text import truncate
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker


class AdapterProver:
    """Keeps the adapters of prefill workers in step with the tasks.

    The changes of one worker's adapters go one after the other, since SGLang makes one at a time; workers do not wait
    for each other. A new start of a worker has no adapter. An adapter that fails on a worker is tried again after a
    pause, and delays no other adapter. The loop runs when something changes, or when a pause is over.

    Args:
        registry: the workers, and the adapters that they need.
        dispatcher: sends the canaries.
        client: loads and unloads.
        metrics: counts loads and canaries.
        log: receives each proof, each failure and each unload.
        deadlines: the pauses after failures, and before an adapter is unloaded.

    Attributes:
        on_changed: called after each proof, failure and unload.
    """

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        client: AdapterClient,
        metrics: Metrics,
        log: Log,
        deadlines: Deadlines,
    ) -> None:
        self._registry = registry
        self._attempts = dispatcher.attempts
        self._client = client
        self._check = EffectCheck(dispatcher, deadlines)
        self._metrics = metrics
        self._log = log
        self._deadlines = deadlines
        self._rng = random.Random()
        self._starts: dict[str, WorkerStart] = {}
        self._failures: dict[tuple[str, AdapterRef], Failure] = {}
        self._busy: set[str] = set()
        self._wake_up = asyncio.Event()
        self.on_changed: list[Callable[[], None]] = []
        self._group: asyncio.TaskGroup
        registry.adapters.on_needed.append(self._wake_up.set)
        registry.adapters.on_revoked.append(self._doubt)

    async def run(self) -> None:
        """Load, prove and unload until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            while True:
                self._wake_up.clear()
                self._update()
                for start in self._starts.values():
                    if start.worker.name not in self._busy and (self._todo(start) or self._surplus(start)):
                        self._busy.add(start.worker.name)
                        self._group.create_task(self._serve(start))
                await wait(self._wake_up, self._pause())

    def last_fault(self, worker: Worker, adapter: AdapterRef) -> tuple[str, int]:
        """Return why an adapter failed last on this start of a worker, and how often in a row; empty and 0 if never."""
        failure = self._failures.get((worker.name, adapter))
        if failure is None or failure.starts != (worker.incarnation,):
            return "", 0
        return failure.why, failure.times

    def is_surplus(self, adapter: AdapterRef, pool: str) -> bool:
        """Return whether a present worker of a pool still has an adapter that this router loaded and no task needs."""
        # an equal adapter of another directory has the same name on the workers
        if adapter.name in {needed.name for needed in self._registry.adapters.needed(pool)}:
            return False
        starts = (start for start in self._starts.values() if start.is_current and start.pool == pool)
        return any(start.has(adapter.name) for start in starts)

    def retry(self, adapter: AdapterRef) -> None:
        """Try an adapter that failed again without a pause."""
        for key in [key for key in self._failures if key[1] == adapter]:
            del self._failures[key]
        self._wake_up.set()

    def unload_now(self, adapter: AdapterRef) -> None:
        """Unload an adapter without the pause, if no task needs it: no request was ever sent for it."""
        for start in self._starts.values():
            start.skip_pause(adapter.name)
        self._wake_up.set()

    # --- what is to be done -----------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Take over new starts of workers, and forget workers that left and adapters that no task needs."""
        for name, start in list(self._starts.items()):
            if self._registry.workers.get(name) is not start.worker or start.has_ended:
                del self._starts[name]
                self._check.forget(name)
        for worker in self._registry.workers.values():
            if worker.role == "prefill" and worker.admitted and worker.name not in self._starts:
                self._starts[worker.name] = WorkerStart(worker)
        needs = {start.pool: self._registry.adapters.needed(start.pool) for start in self._starts.values()}
        names = {pool: {adapter.name for adapter in needed} for pool, needed in needs.items()}
        for start in self._starts.values():
            start.note_needed(names[start.pool], self._attempts.now())
        self._check.keep({adapter for needed in needs.values() for adapter in needed})
        for name, adapter in list(self._failures):
            if name not in self._starts or adapter not in needs[self._starts[name].pool]:
                del self._failures[name, adapter]

    def _todo(self, start: WorkerStart) -> list[AdapterRef]:
        """Return the adapters to load into a worker now, or to prove there."""
        if not start.is_current:
            return []
        return [adapter for adapter in self._registry.adapters.needed(start.pool) if self._is_due(start, adapter)]

    def _is_due(self, start: WorkerStart, adapter: AdapterRef) -> bool:
        worker = start.worker
        if self._registry.adapters.is_proven(worker, adapter) or adapter in start.proving:
            return False
        assert worker.card is not None, "an admitted worker has a card"
        if adapter_fault(worker.card, adapter):
            return False
        failure = self._failures.get((worker.name, adapter))
        if failure is not None and failure.starts == (start.incarnation,) and failure.next_try > self._attempts.now():
            return False
        # an adapter that the worker has waits for the first proven path
        return adapter.name not in start.confirmed or bool(self._registry.adapters.pairs(worker, adapter))

    def _surplus(self, start: WorkerStart) -> list[str]:
        """Return the names of the adapters to unload from a worker now."""
        unneeded = start.unneeded() if start.is_current else {}
        if not unneeded:
            return []
        # a task may need it again since the last update, and its canary would make SGLang load it again
        needed = {adapter.name for adapter in (*self._registry.adapters.needed(start.pool), *start.proving)}
        latest = self._attempts.now() - self._deadlines.adapter_unload_pause
        return [name for name, since in unneeded.items() if since <= latest and name not in needed]

    def _pause(self) -> float | None:
        """Return the seconds until the next pause of an adapter is over; None if there is none."""
        now, pause = self._attempts.now(), self._deadlines.adapter_unload_pause
        ends = [failure.next_try for failure in self._failures.values()]
        ends += [since + pause for start in self._starts.values() for since in start.unneeded().values()]
        # what is due already is under way, or waits for an event
        return min((end - now for end in ends if end > now), default=None)

    # --- doing it ---------------------------------------------------------------------------------------------------

    async def _serve(self, start: WorkerStart) -> None:
        """Change the adapters of one worker until nothing is to be done."""
        try:
            while (todo := self._todo(start)) or self._surplus(start):
                await self._load(start, todo)
                await self._unload(start)
        finally:
            self._busy.discard(start.worker.name)
            self._wake_up.set()

    async def _load(self, start: WorkerStart, todo: list[AdapterRef]) -> None:
        """Load adapters one after the other. Each is proven while the next ones are loaded."""
        needed = self._registry.adapters.needed(start.pool)
        for adapter in todo:
            if not start.is_current or self._registry.adapters.needed(start.pool) is not needed:
                # what an admin waits for comes first among what is needed now
                return
            if adapter.name not in start.confirmed and (fault := await self._load_one(start, adapter)):
                self._fail(start, adapter, fault)
                continue
            start.proving.add(adapter)
            self._group.create_task(self._prove(start, adapter))

    async def _load_one(self, start: WorkerStart, adapter: AdapterRef) -> str:
        """Load an adapter, and return the fault; empty if the worker has it."""
        name, begun = start.worker.name, self._attempts.now()
        start.note_loading(adapter.name)
        fault, answered = await self._client.load(start.worker.spec, adapter)
        start.note_loaded(adapter.name, None if not answered else not fault)
        self._metrics.adapter_loads.labels(name, "failed" if fault else "ok").inc()
        self._metrics.adapter_load_seconds.labels(name).observe(self._attempts.now() - begun)
        return fault

    async def _prove(self, start: WorkerStart, adapter: AdapterRef) -> None:
        try:
            async with start.slots:
                pairs = self._registry.adapters.pairs(start.worker, adapter) if start.is_current else []
                if not pairs:
                    # no task needs it any more, or no path is proven; the next proof of one starts over
                    return
                fault = await self._check.fault(self._rng.choice(pairs))
        finally:
            start.proving.discard(adapter)
            if adapter not in self._registry.adapters.needed(start.pool):
                # it can be unloaded now
                self._wake_up.set()
        self._metrics.adapter_canaries.labels(start.worker.name, "failed" if fault else "ok").inc()
        if fault:
            self._fail(start, adapter, fault)
        elif self._registry.adapters.prove(start.worker.name, start.incarnation, adapter):
            self._failures.pop((start.worker.name, adapter), None)
            self._log.event("adapter_proven", worker=start.worker.name, adapter=adapter.name)
        self._report_change()

    def _fail(self, start: WorkerStart, adapter: AdapterRef, why: str) -> None:
        if not start.is_current:
            return
        start.confirmed.discard(adapter.name)
        key, now = (start.worker.name, adapter), self._attempts.now()
        why = truncate(why, MAX_FAULT)
        failure = next_failure(self._failures.get(key), (start.incarnation,), why, now, self._deadlines)
        self._failures[key] = failure
        self._log.event(
            "adapter_failed", worker=start.worker.name, adapter=adapter.name, why=why, again_in_s=failure.pause
        )
        self._wake_up.set()
        self._report_change()

    async def _unload(self, start: WorkerStart) -> None:
        """Unload the adapters that no task needs, unless requests of this router still use them."""
        for name in self._surplus(start):
            if any(uses_adapter(a.pair, start.worker, name) and a.holds("prefill") for a in self._attempts):
                # never due at once, or the loop would not end while the requests go on
                start.keep_until(name, self._attempts.now() + self._deadlines.adapter_use_check)
                continue
            fault = await self._client.unload(start.worker.spec, name)
            if fault:
                self._log.event("adapter_not_unloaded", worker=start.worker.name, adapter=name, why=fault)
                start.keep_until(name, self._attempts.now() + self._deadlines.adapter_use_check)
            else:
                self._log.event("adapter_unloaded", worker=start.worker.name, adapter=name)
                start.note_unloaded(name)
            self._report_change()

    def _doubt(self, worker: str, adapter: AdapterRef) -> None:
        """Load an adapter again that a worker reported as missing."""
        if (start := self._starts.get(worker)) is not None:
            start.confirmed.discard(adapter.name)

    def _report_change(self) -> None:
        for listener in self.on_changed:
            listener()
