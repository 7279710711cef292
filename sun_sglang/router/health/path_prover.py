"""Send a canary over every unproven path, and again after a pause while it fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.pair_response import PairResponse
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.canary import canary_fault, make_canary
from sun_sglang.router.health.failure import MAX_FAULT, Failure, next_failure
from sun_sglang.router.health.wake_up import wait
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.text import truncate
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker_paths import Pair, WorkerPath


class PathProver:
    """Proves paths between workers; one canary proves a path for every task.

    Canaries over different paths run at the same time: a worker that holds its canaries until their deadline delays no
    other worker.

    Args:
        registry: the workers, and the paths that need a canary.
        dispatcher: sends the canaries.
        metrics: counts them.
        log: receives each proof and each failure.
        deadlines: the limit for a canary, and the pauses after failed ones.

    Attributes:
        on_failed: called when a canary over an unproven path failed.
    """

    def __init__(
        self, registry: Registry, dispatcher: Dispatcher, metrics: Metrics, log: Log, deadlines: Deadlines
    ) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._log = log
        self._deadlines = deadlines
        self._interval = registry.fleet.router.probe_interval
        self._rng = random.Random()
        self._failures: dict[WorkerPath, Failure] = {}
        self._wake_up = asyncio.Event()
        self.on_failed: list[Callable[[], None]] = []
        registry.on_unproven.append(self._wake_up.set)

    async def run(self) -> None:
        """Prove every path until cancelled."""
        under_way: set[WorkerPath] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake_up.clear()
                self._forget_removed()
                # one time for both questions: what comes due between them would wait for the next interval
                now = self._now()
                for path in self._registry.unproven():
                    if path not in under_way and self._is_due(path, now):
                        under_way.add(path)
                        task = group.create_task(self._prove(path))
                        task.add_done_callback(_discard(under_way, path))
                await wait(self._wake_up, self._pause(now))

    async def canary(self, path: WorkerPath) -> str:
        """Send one canary over a path between admitted workers. Return its fault; empty if it passed."""
        pair = Pair(self._registry.workers[path.prefill], self._registry.workers[path.decode])
        assert pair.decode.card is not None, "only admitted workers get canaries"
        # of these starts of the workers: either may be gone when the canary ends
        first_token = pair.first_token
        request = make_canary(pair.decode.card.identity.vocab_size, self._rng)
        ticket = Ticket(request.task, None, self._dispatcher.attempts.now(), counted=False)
        try:
            outcome = await self._dispatcher.try_pair(request, pair, ticket, self._deadlines.canary, fresh=True)
        except ApiError as error:
            fault = error.message
        else:
            if isinstance(outcome, PairResponse):
                fault = canary_fault(outcome.head, outcome.prefill, first_token)
            else:
                fault = outcome.error.message
        pools = (pair.prefill.spec.pool, pair.decode.spec.pool)
        self._metrics.canaries.labels(*pools, "failed" if fault else "ok").inc()
        return truncate(fault, MAX_FAULT)

    def last_fault(self, path: WorkerPath) -> tuple[str, int]:
        """Return why the last canary over a path failed, and how many in a row failed so; empty and 0 if none did."""
        failure = self._failures.get(path)
        if failure is None or failure.starts != self._registry.starts(path):
            return "", 0
        return failure.why, failure.times

    def _pause(self, now: float) -> float:
        """Return the seconds from loop time `now` to the next check.

        A failed canary may be due again before the interval is over.
        """
        unproven = self._registry.unproven()
        again = [self._failures[path].next_try - now for path in unproven if path in self._failures]
        return min([self._interval, *(pause for pause in again if pause > 0)])

    def _is_due(self, path: WorkerPath, now: float) -> bool:
        failure = self._failures.get(path)
        return failure is None or failure.starts != self._registry.starts(path) or failure.next_try <= now

    def _now(self) -> float:
        return self._dispatcher.attempts.now()

    async def _prove(self, path: WorkerPath) -> None:
        starts = self._registry.starts(path)
        if starts is None:
            return
        fault = await self.canary(path)
        if fault:
            before = self._failures.get(path)
            failure = self._failures[path] = next_failure(before, starts, fault, self._now(), self._deadlines)
            self._wake_up.set()
            for listener in self.on_failed:
                listener()
            self._log.event("canary_failed", why=fault, again_in_s=failure.pause, **path._asdict())
        elif self._registry.prove(path, starts):
            self._failures.pop(path, None)
            self._log.event("path_proven", **path._asdict())

    def _forget_removed(self) -> None:
        workers = self._registry.workers
        for path in [path for path in self._failures if not (path.prefill in workers and path.decode in workers)]:
            del self._failures[path]


def _discard(paths: set[WorkerPath], path: WorkerPath) -> Callable[[asyncio.Task[None]], None]:
    def discard(_: asyncio.Task[None]) -> None:
        paths.discard(path)

    return discard
