"""Give every prefill worker the own weights of its tasks: load, prove, and unload them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.health.failure import MAX_FAULT, Failure, next_failure
from sun_sglang.router.health.task_weights.clients.weights_client import WeightsClient, kind_of_name
from sun_sglang.router.health.task_weights.effect_check import EffectCheck
from sun_sglang.router.health.task_weights.worker_start import WorkerStart, uses_weights
from sun_sglang.router.health.wake_up import wait
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.task_weights.kind import kind_of
from sun_sglang.router.task_weights.limits import weights_fault
from sun_sglang.router.text import truncate
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker


class WeightsProver:
    """Keeps the weights of tasks on prefill workers in step with the tasks.

    The changes of one worker go one after the other, since SGLang makes one at a time; workers do not wait for each
    other. A new start of a worker has no weights of tasks. Weights that fail on a worker are tried again after a pause,
    and delay no others. The loop runs when something changes, or when a pause is over.

    Args:
        registry: the workers, and the weights that they need.
        dispatcher: sends the canaries.
        client: loads and unloads.
        metrics: counts loads and canaries.
        log: receives each proof, each failure and each unload.
        deadlines: the pauses after failures, and before weights are unloaded.

    Attributes:
        on_changed: called after each proof, failure and unload.
    """

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        client: WeightsClient,
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
        self._failures: dict[tuple[str, TaskWeights], Failure] = {}
        self._busy: set[str] = set()
        self._wake_up = asyncio.Event()
        self.on_changed: list[Callable[[], None]] = []
        self._group: asyncio.TaskGroup
        registry.weights.on_needed.append(self._wake_up.set)
        registry.weights.on_revoked.append(self._doubt)

    async def run(self) -> None:
        """Load, prove and unload until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            while True:
                self._wake_up.clear()
                # one time for both questions: what comes due between them would be forgotten
                now = self._attempts.now()
                self._update(now)
                for start in self._starts.values():
                    if start.worker.name not in self._busy and (self._todo(start, now) or self._surplus(start, now)):
                        self._busy.add(start.worker.name)
                        self._group.create_task(self._serve(start))
                await wait(self._wake_up, self._pause(now))

    def last_fault(self, worker: Worker, weights: TaskWeights) -> tuple[str, int]:
        """Return why weights failed last on this start of a worker, and how often in a row; empty and 0 if never."""
        failure = self._failures.get((worker.name, weights))
        if failure is None or failure.starts != (worker.incarnation,):
            return "", 0
        return failure.why, failure.times

    def is_surplus(self, weights: TaskWeights, pool: str) -> bool:
        """Return whether a present worker of a pool still has weights that this router loaded and no task needs."""
        # equal weights of another directory have the same name on the workers
        if weights.name in {needed.name for needed in self._registry.weights.needed(pool)}:
            return False
        starts = (start for start in self._starts.values() if start.is_current and start.pool == pool)
        return any(start.has(weights.name) for start in starts)

    def retry(self, weights: TaskWeights) -> None:
        """Try weights that failed again without a pause."""
        for key in [key for key in self._failures if key[1] == weights]:
            del self._failures[key]
        self._wake_up.set()

    def unload_now(self, weights: TaskWeights) -> None:
        """Unload weights without the pause, if no task needs them: no request was ever sent for them."""
        for start in self._starts.values():
            start.skip_pause(weights.name)
        self._wake_up.set()

    # --- what is to be done -----------------------------------------------------------------------------------------

    def _update(self, now: float) -> None:
        """Take over new starts of workers, and forget workers that left and weights that no task needs."""
        for name, start in list(self._starts.items()):
            if self._registry.workers.get(name) is not start.worker or start.has_ended:
                del self._starts[name]
                self._check.forget(name)
        for worker in self._registry.workers.values():
            if worker.role == "prefill" and worker.admitted and worker.name not in self._starts:
                self._starts[worker.name] = WorkerStart(worker)
        needs = {start.pool: self._registry.weights.needed(start.pool) for start in self._starts.values()}
        names = {pool: {weights.name for weights in needed} for pool, needed in needs.items()}
        for start in self._starts.values():
            start.note_needed(names[start.pool], now)
        self._check.keep({weights for needed in needs.values() for weights in needed})
        for name, weights in list(self._failures):
            if name not in self._starts or weights not in needs[self._starts[name].pool]:
                del self._failures[name, weights]

    def _todo(self, start: WorkerStart, now: float) -> list[TaskWeights]:
        """Return the weights to load into a worker at loop time `now`, or to prove there."""
        if not start.is_current:
            return []
        return [weights for weights in self._registry.weights.needed(start.pool) if self._is_due(start, weights, now)]

    def _is_due(self, start: WorkerStart, weights: TaskWeights, now: float) -> bool:
        worker = start.worker
        if self._registry.weights.is_proven(worker, weights) or weights in start.proving:
            return False
        assert worker.card is not None, "an admitted worker has a card"
        if weights_fault(worker.card, weights):
            return False
        failure = self._failures.get((worker.name, weights))
        if failure is not None and failure.starts == (start.incarnation,) and failure.next_try > now:
            return False
        # weights that the worker has wait for the first proven path
        return weights.name not in start.confirmed or bool(self._registry.weights.pairs(worker, weights))

    def _surplus(self, start: WorkerStart, now: float) -> list[str]:
        """Return the names of the weights to unload from a worker at loop time `now`."""
        unneeded = start.unneeded() if start.is_current else {}
        if not unneeded:
            return []
        # a task may need them again since the last update, and a canary would make SGLang load an adapter again
        needed = {weights.name for weights in (*self._registry.weights.needed(start.pool), *start.proving)}
        pause = self._deadlines.weights_unload_pause
        return [name for name, since in unneeded.items() if since + pause <= now and name not in needed]

    def _pause(self, now: float) -> float | None:
        """Return the seconds from loop time `now` until the next pause of weights is over; None if there is none."""
        pause = self._deadlines.weights_unload_pause
        ends = [failure.next_try for failure in self._failures.values()]
        ends += [since + pause for start in self._starts.values() for since in start.unneeded().values()]
        # what is due already is under way, or waits for an event
        return min((end - now for end in ends if end > now), default=None)

    # --- doing it ---------------------------------------------------------------------------------------------------

    async def _serve(self, start: WorkerStart) -> None:
        """Change the weights of one worker until nothing is to be done."""
        try:
            while (todo := self._todo(start, self._attempts.now())) or self._surplus(start, self._attempts.now()):
                await self._load(start, todo)
                await self._unload(start)
        finally:
            self._busy.discard(start.worker.name)
            self._wake_up.set()

    async def _load(self, start: WorkerStart, todo: list[TaskWeights]) -> None:
        """Load weights one after the other. Each is proven while the next ones are loaded."""
        needed = self._registry.weights.needed(start.pool)
        for weights in todo:
            if not start.is_current or self._registry.weights.needed(start.pool) is not needed:
                # what an admin waits for comes first among what is needed now
                return
            if weights.name not in start.confirmed and (fault := await self._load_one(start, weights)):
                self._fail(start, weights, fault)
                continue
            start.proving.add(weights)
            self._group.create_task(self._prove(start, weights))

    async def _load_one(self, start: WorkerStart, weights: TaskWeights) -> str:
        """Load weights, and return the fault; empty if the worker has them."""
        name, begun = start.worker.name, self._attempts.now()
        start.note_loading(weights.name)
        fault, answered = await self._client.load(start.worker.spec, weights)
        start.note_loaded(weights.name, None if not answered else not fault)
        metrics = self._metrics.weights[kind_of(weights)]
        metrics.loads.labels(name, "failed" if fault else "ok").inc()
        metrics.load_seconds.labels(name).observe(self._attempts.now() - begun)
        return fault

    async def _prove(self, start: WorkerStart, weights: TaskWeights) -> None:
        try:
            async with start.slots:
                pairs = self._registry.weights.pairs(start.worker, weights) if start.is_current else []
                if not pairs:
                    # no task needs them any more, or no path is proven; the next proof of one starts over
                    return
                fault = await self._check.fault(self._rng.choice(pairs))
        finally:
            start.proving.discard(weights)
            if weights not in self._registry.weights.needed(start.pool):
                # they can be unloaded now
                self._wake_up.set()
        self._metrics.weights[kind_of(weights)].canaries.labels(start.worker.name, "failed" if fault else "ok").inc()
        if fault:
            self._fail(start, weights, fault)
        elif self._registry.weights.prove(start.worker.name, start.incarnation, weights):
            self._failures.pop((start.worker.name, weights), None)
            self._report(f"{kind_of(weights)}_proven", start, weights.name)
        self._report_change()

    def _fail(self, start: WorkerStart, weights: TaskWeights, why: str) -> None:
        if not start.is_current:
            return
        start.confirmed.discard(weights.name)
        key, now = (start.worker.name, weights), self._attempts.now()
        why = truncate(why, MAX_FAULT)
        failure = next_failure(self._failures.get(key), (start.incarnation,), why, now, self._deadlines)
        self._failures[key] = failure
        self._report(f"{kind_of(weights)}_failed", start, weights.name, why=why, again_in_s=failure.pause)
        self._wake_up.set()
        self._report_change()

    async def _unload(self, start: WorkerStart) -> None:
        """Unload the weights that no task needs, unless requests of this router still use them."""
        for name in self._surplus(start, self._attempts.now()):
            if any(uses_weights(a.pair, start.worker, name) and a.holds("prefill") for a in self._attempts):
                # never due at once, or the loop would not end while the requests go on
                start.keep_until(name, self._attempts.now() + self._deadlines.weights_use_check)
                continue
            fault = await self._client.unload(start.worker.spec, name)
            if fault:
                self._report(f"{kind_of_name(name)}_not_unloaded", start, name, why=fault)
                start.keep_until(name, self._attempts.now() + self._deadlines.weights_use_check)
            else:
                self._report(f"{kind_of_name(name)}_unloaded", start, name)
                start.note_unloaded(name)
            self._report_change()

    def _doubt(self, worker: str, weights: TaskWeights) -> None:
        """Load weights again that a worker reported as missing."""
        if (start := self._starts.get(worker)) is not None:
            start.confirmed.discard(weights.name)

    def _report(self, event: str, start: WorkerStart, name: str, **fields: object) -> None:
        """Log an event of weights on a worker; the field with their name is `adapter` or `module`."""
        self._log.event(event, worker=start.worker.name, **{kind_of_name(name): name}, **fields)

    def _report_change(self) -> None:
        for listener in self.on_changed:
            listener()
