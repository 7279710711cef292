"""The attempts under way: both legs are sent at once, and ended together. I/O through the worker client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Attempt, Ticket
from sun_sglang.router.dispatch.legs.leg_bodies import LEGS, Leg, leg_bodies, new_leg_ids
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.dispatch.outcome.decision import leg_outcome
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.observability.request_id import RandomBytes
from sun_sglang.router.transport.errors import LegError
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult
from sun_sglang.router.transport.worker_client import WorkerClient
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair


class RunningAttempts:
    """All attempts that have not ended. Iterates over them.

    Args:
        client: sends legs and aborts.
        registry: the workers.
        metrics: counts legs.
        clock: for limits on workers.
        deadlines: `abort_pauses` and `linger`.

    Attributes:
        clock: see above.
        now: returns loop time in seconds, for reports; limits on workers are measured on `clock`. It is the loop's own
            method, since a request calls it ten times.
    """

    def __init__(
        self, client: WorkerClient, registry: Registry, metrics: Metrics, clock: Clock, deadlines: Deadlines
    ) -> None:
        self.clock = clock
        self._client = client
        self._registry = registry
        self._metrics = metrics
        self._deadlines = deadlines
        self._max_bytes = int(registry.fleet.router.max_answer_mb * (1 << 20))
        self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self._loop.time
        self._random_bytes = RandomBytes()
        self._background: set[asyncio.Task[None]] = set()
        self._running: set[Attempt] = set()
        self._aborting: set[Attempt] = set()

    def __iter__(self) -> Iterator[Attempt]:
        return iter(tuple(self._running))

    def __len__(self) -> int:
        return len(self._running)

    def last_progress(self, worker: Worker) -> float:
        """Return the clock time at which a worker last made progress with any request that the router observed."""
        arrived = [a.legs["decode"].arrived for a in self._running if a.pair.decode is worker]
        return max([worker.last_progress, *arrived])

    def send(self, request: PairRequest, pair: Pair, ticket: Ticket, *, fresh: bool) -> Attempt:
        """Send both legs at once, and return their attempt.

        Args:
            request: the part that does not depend on the pair.
            pair: the workers.
            ticket: the client's request.
            fresh: open new connections instead of using idle ones.
        """
        rid, room = new_leg_ids(self._random_bytes.read(24))
        attempt = Attempt(request, pair, rid, ticket, self.now(), self._loop.create_future())
        tokens = request.tokens if attempt.computes is not None else None
        bodies = leg_bodies(request, pair, rid=rid, room=room, tokens=tokens)
        attempt.acquire_workers()
        for worker in pair:
            self._registry.pick(worker)
            worker.load.note_body(len(bodies.decode), self.now())
        adapters = pair.prefill.card.adapters if pair.prefill.card is not None else None
        if isinstance(pair.weights, AdapterRef) and adapters is not None:
            pair.prefill.resident.note_request(pair.weights.name, adapters.slots)
        self._running.add(attempt)
        ticket.add_attempt(attempt)
        path, (prefill, decode) = request.endpoint, pair
        send = partial(self._client.send, fresh=fresh, max_bytes=self._max_bytes)
        to_prefill = send(prefill.spec, path, bodies.prefill, partial(self._prefilled, attempt))
        to_decode = send(decode.spec, path, bodies.decode, partial(attempt.record, "decode"), streams=request.stream)
        attempt.note_sent({"prefill": to_prefill, "decode": to_decode})
        return attempt

    def expire(self, attempt: Attempt, limit: float, *, whole: bool) -> None:
        """End an attempt whose limit passed.

        Args:
            attempt: which.
            limit: seconds that it had.
            whole: the limit is for the whole answer; see `Attempt.expire`.
        """
        silent = self.clock.now() - self.last_progress(attempt.worker(attempt.awaited_leg))
        attempt.expire(limit, silent=silent, whole=whole)

    def release_decode(self, attempt: Attempt) -> None:
        """Release the decode worker of a leg that ended well, whether or not the client has read the answer."""
        if attempt.holds("decode") and attempt.ticket.counted:
            self._metrics.leg_seconds.labels(attempt.request.task, "decode").observe(self.now() - attempt.times.sent)
        self._release(attempt, "decode", "ok")

    def finish(self, attempt: Attempt) -> None:
        """End an attempt whose answer was delivered."""
        self.release_decode(attempt)
        if all(leg.over for leg in attempt.legs.values()):
            self._close(attempt)
        else:
            self._spawn(self._settle(attempt))

    def abandon(self, attempt: Attempt) -> None:
        """End an attempt whose answer no client reads: close both connections and send both workers an abort.

        SGLang passes no abort on from one worker to the other. Do nothing if the attempt has ended.
        """
        if attempt not in self._running:
            return
        legs = [leg for leg in LEGS if not self._is_over(attempt, leg)]
        for leg, exchange in attempt.legs.items():
            exchange.close()
            outcome = leg_outcome(attempt.results[leg])
            # `ok` is a response that had started
            self._release(attempt, leg, "abandoned" if outcome == "ok" else outcome)
        self._close(attempt)
        for leg in legs:
            self._spawn(self._client.abort(attempt.worker(leg).spec, {"rid": attempt.rid}))

    def abort(self, attempt: Attempt) -> None:
        """Send both workers the client's abort; their responses end the attempt."""
        if attempt not in self._aborting:
            self._aborting.add(attempt)
            self._spawn(self._abort_until_over(attempt))

    def abort_everywhere(self) -> None:
        """Abort all requests on all workers, other routers' included, as `abort_all` does on a single server."""
        for worker in self._registry.workers.values():
            if worker.card is not None:
                self._spawn(self._client.abort(worker.spec, {"abort_all": True}))

    def cut_all(self, reason: str) -> None:
        """End every attempt; each client receives an explicit error."""
        for attempt in self:
            attempt.record("prefill", LegFailure(reason))
            attempt.record("decode", LegFailure(reason))
            attempt.cut_off(reason)

    async def close(self) -> None:
        """Wait for aborts that are under way, so that no worker keeps a request without a reader."""
        while self._background:
            await asyncio.gather(*self._background)
        self._client.close()

    def _prefilled(self, attempt: Attempt, result: LegResult) -> None:
        attempt.record("prefill", result)
        outcome = leg_outcome(result)
        if outcome == "ok":
            attempt.note_handed_over(self.now(), self.clock.now())
            if attempt.ticket.on_prefilled is not None:
                attempt.ticket.on_prefilled(attempt)
        self._release(attempt, "prefill", outcome)
        if attempt.ticket.counted and outcome == "ok":
            self._metrics.leg_seconds.labels(attempt.request.task, "prefill").observe(self.now() - attempt.times.sent)

    def _is_over(self, attempt: Attempt, leg: Leg) -> bool:
        """Return whether a worker has nothing of the request, so that it needs no abort."""
        result = attempt.results[leg]
        if isinstance(result, LegFailure):
            return result.refused
        unread = isinstance(result, LegResponse) and result.streamed and result.status == 200
        return result is not None and not unread and attempt.legs[leg].over

    def _release(self, attempt: Attempt, leg: Leg, outcome: str) -> None:
        if attempt.release_worker(leg) and attempt.ticket.counted:
            self._metrics.legs.labels(attempt.request.task, leg, outcome).inc()

    def _close(self, attempt: Attempt) -> None:
        attempt.note_end(self.now())
        self._running.discard(attempt)
        attempt.ticket.remove_attempt(attempt)
        attempt.legs["decode"].close()

    async def _settle(self, attempt: Attempt) -> None:
        """Wait for the end of both responses, so that the connections can be used again."""
        try:
            async with asyncio.timeout(self._deadlines.linger):
                with suppress(LegError):
                    await attempt.legs["prefill"].finished()
                await attempt.legs["decode"].finished()
        except (TimeoutError, LegError):
            self.abandon(attempt)
        else:
            self._close(attempt)

    async def _abort_until_over(self, attempt: Attempt) -> None:
        """Repeat an abort: a worker ignores the id of a request that it has not received yet."""
        try:
            for pause in self._deadlines.abort_pauses:
                await asyncio.gather(*(self._client.abort(w.spec, {"rid": attempt.rid}) for w in attempt.pair))
                await asyncio.sleep(pause)
                if attempt not in self._running:
                    return
        finally:
            self._aborting.discard(attempt)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
