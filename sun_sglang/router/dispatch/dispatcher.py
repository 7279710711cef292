"""The life of a request on two workers: both legs are sent at once, live together, and die together.

What to decide is in `outcome` and `policy`, what goes over the network in `wire`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from sun_sglang.errors import RequestError
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Attempt, Ticket
from sun_sglang.router.dispatch.legs import PairRequest, leg_bodies, new_leg_ids
from sun_sglang.router.dispatch.outcome import (
    LEGS,
    AttemptFailed,
    Leg,
    Relay,
    Serve,
    had_request,
    leg_outcome,
    worker_died,
)
from sun_sglang.router.dispatch.pair_response import PairResponse
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.observability.request_id import RandomBytes
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.transport.errors import LegError
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult
from sun_sglang.router.transport.worker_client import WorkerClient
from sun_sglang.router.workers.paths import Pair, WorkerPath
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker

ATTEMPTS = 2


class Dispatcher:
    """Sends requests to pairs of workers and brings back answers.

    Attributes:
        attempts: all that are under way.
        clock: for deadlines.
        client: for legs and aborts.
    """

    def __init__(
        self,
        client: WorkerClient,
        registry: Registry,
        selector: PairSelector,
        metrics: Metrics,
        log: Log,
        clock: Clock,
        deadlines: Deadlines,
    ) -> None:
        self.client = client
        self.clock = clock
        self._deadlines = deadlines
        self._selector = selector
        self._registry = registry
        self._metrics = metrics
        self._log = log
        self._limits = registry.fleet.router
        self._loop = asyncio.get_running_loop()
        self._random_bytes = RandomBytes()
        self._background: set[asyncio.Task[None]] = set()
        self.attempts: set[Attempt] = set()
        self._aborting: set[Attempt] = set()
        self._closing = False
        self._proven = asyncio.Event()
        registry.on_proven.append(self._on_proven)

    def now(self) -> float:
        """Return loop time in seconds, for reports; deadlines are on `clock`."""
        return self._loop.time()

    def progressed(self, worker: Worker) -> float:
        """Return the clock time at which a worker last made progress with any request, as far as the router knows."""
        arrived = [a.legs["decode"].arrived for a in self.attempts if a.pair.decode is worker]
        return max([worker.last_progress, *arrived])

    async def dispatch(self, request: PairRequest, ticket: Ticket) -> PairResponse:
        """Get an answer, with one retry on other workers where there are any.

        An attempt that failed only because a kept connection was closed is repeated once on new connections, and does
        not use up the retry. Each attempt has a new request id and a new room.

        Raises:
            Problem: what to tell the client instead. No byte has gone to it yet.
        """
        avoid: set[str] = set()
        failed: AttemptFailed | None = None
        left, fresh = ATTEMPTS, False
        while left:
            pair = await self._checked_pair(request, ticket, avoid)
            if ticket.abort_asked:
                raise aborted_early()
            if pair is None:
                break
            if failed is not None and not failed.stale:
                self._metrics.retries.labels(request.task, failed.leg).inc()
            outcome = await self.try_pair(request, pair, ticket, fresh=fresh)
            if isinstance(outcome, PairResponse):
                return outcome
            failed, tried = outcome, ticket.tries[-1]
            worker = tried.worker(failed.leg)
            event = "stale_connection" if failed.stale else "attempt_failed"
            self._log.event(event, task=request.task, leg=failed.leg, worker=worker.name, why=failed.error.message)
            if failed.eject:
                self.eject(worker.name, failed.error.message)
            if failed.doubt:
                self._registry.revoke(pair.path)
            if not failed.retry or ticket.abort_asked or self._closing:
                break
            await self._require_alive(tried)
            if failed.stale:
                fresh = True
            else:
                left -= 1
                avoid.update((w.name for w in pair) if failed.doubt else (worker.name,))
        raise (
            failed.error
            if failed
            else ApiError(503, f"no worker can serve task `{request.task}` now", code="no_worker")
        )

    async def try_pair(
        self, request: PairRequest, pair: Pair, ticket: Ticket, timeout: float | None = None, *, fresh: bool = False
    ) -> PairResponse | AttemptFailed:
        """One try on one pair.

        Args:
            request: what is asked.
            pair: who is asked.
            ticket: whose request it is.
            timeout: seconds for the whole answer, instead of the fleet's for its first token.
            fresh: use no kept connection.

        Raises:
            Problem: the request itself is at fault; another pair would say the same.
        """
        attempt = self._send(request, pair, ticket, fresh)
        limit = timeout or self._limits.first_token_timeout
        deadline = self.clock.call_later(limit, partial(self.expire, attempt, limit, timeout is not None))
        try:
            outcome = await attempt.outcome
        except BaseException:
            self.abandon(attempt)
            raise
        finally:
            deadline.cancel()
        if isinstance(outcome, Serve):
            return self._answer(attempt)
        self.abandon(attempt)
        if isinstance(outcome, Relay):
            raise outcome.error
        return outcome

    def decoded(self, attempt: Attempt) -> None:
        """Take a decode leg that ended well off its worker, whether or not the client has read the answer."""
        if attempt.holds("decode") and attempt.ticket.counted:
            self._metrics.leg_seconds.labels(attempt.request.task, "decode").observe(self.now() - attempt.times.sent)
        self._release(attempt, "decode", "ok")

    def finish(self, attempt: Attempt) -> None:
        """An answer was delivered: let go of both workers."""
        self.decoded(attempt)
        if all(leg.over for leg in attempt.legs.values()):
            self._close(attempt)
        else:
            self._spawn(self._settle(attempt))

    def abandon(self, attempt: Attempt) -> None:
        """Abort both legs: close their connections and tell both workers. SGLang passes no abort on by itself."""
        if attempt not in self.attempts:
            return
        legs = [leg for leg in LEGS if not self._is_over(attempt, leg)]
        for leg, exchange in attempt.legs.items():
            exchange.close()
            outcome = leg_outcome(attempt.results[leg])
            # an answer that had begun and is not wanted any more
            self._release(attempt, leg, "abandoned" if outcome == "ok" else outcome)
        self._close(attempt)
        for leg in legs:
            self._spawn(self.client.abort(attempt.worker(leg).spec, {"rid": attempt.rid}))

    def abort(self, ticket: Ticket) -> None:
        """The client asked for an abort: tell the workers; their answers end the request in the usual way."""
        ticket.abort_asked = True
        if ticket.waiting is not None and not ticket.waiting.done():
            ticket.waiting.set_exception(aborted_early())
        for attempt in ticket.attempts:
            if attempt not in self._aborting:
                self._aborting.add(attempt)
                self._spawn(self._abort_until_over(attempt))

    def abort_everywhere(self) -> None:
        """Abort all requests on all workers, other routers' included, as `abort_all` does on a single server."""
        for worker in self._registry.workers.values():
            if worker.card is not None:
                self._spawn(self.client.abort(worker.spec, {"abort_all": True}))

    def eject(self, name: str, reason: str, *, gone: bool = False) -> None:
        """Take a worker out of rotation until its card and a canary pass. `gone`: its requests in flight are lost."""
        worker = self._registry.workers.get(name)
        if self._closing or worker is None or worker.card is None:
            return
        self._metrics.ejections.labels(name).inc()
        self._log.event("worker_ejected", worker=name, why=reason)
        self._registry.eject(name, reason, gone=gone)

    def cut_all(self, reason: str) -> None:
        """End every request that is still in flight; each client gets an explicit error."""
        self._closing = True
        self._on_proven()
        for attempt in tuple(self.attempts):
            attempt.record("prefill", LegFailure(reason))
            attempt.fail_decode(reason)

    async def close(self) -> None:
        """Wait for aborts that are under way, so that no worker is left with a request nobody wants."""
        while self._background:
            await asyncio.gather(*self._background)
        self.client.close()

    async def _abort_until_over(self, attempt: Attempt) -> None:
        """A worker ignores the id of a request that it has not taken in yet, so it is told again."""
        try:
            for pause in self._deadlines.abort_pauses:
                await asyncio.gather(*(self.client.abort(w.spec, {"rid": attempt.rid}) for w in attempt.pair))
                await asyncio.sleep(pause)
                if attempt not in self.attempts:
                    return
        finally:
            self._aborting.discard(attempt)

    async def _checked_pair(self, request: PairRequest, ticket: Ticket, avoid: set[str]) -> Pair | None:
        """Choose a pair that takes the request: what is usable may have changed since the request was checked."""
        while (pair := await self._pair(request, avoid)) is not None:
            if ticket.checked is None or ticket.checked.holds:
                return pair
            try:
                await ticket.checked.again()
            except RequestError as e:
                raise ApiError.of(e) from e
        return None

    async def _pair(self, request: PairRequest, avoid: set[str]) -> Pair | None:
        if (pair := self._choose(request, avoid)) is not None:
            return pair
        try:
            async with self.clock.timeout(self._deadlines.recovery):
                while (pair := self._choose(request, avoid)) is None and not self._closing:
                    await self._proven.wait()
        except TimeoutError:
            return None
        return pair

    def _choose(self, request: PairRequest, avoid: set[str]) -> Pair | None:
        return self._selector.select(self._registry.usable(request.task), request.cost, request.keys, avoid)

    def _on_proven(self, _: WorkerPath | None = None) -> None:
        self._proven.set()
        self._proven = asyncio.Event()

    # --- one attempt ----------------------------------------------------------------------------------------------

    async def _require_alive(self, attempt: Attempt) -> None:
        """Check, after a failed attempt, that no worker died under the request.

        Such a request may be what killed the worker, and would kill the next one.

        Raises:
            Problem: a worker that had the request is not proven to be the same process as before.
        """
        legs = [leg for leg in LEGS if had_request(leg, attempt.results[leg], attempt.rid)]
        asked = self.clock.now()
        alive = await asyncio.gather(*(self._is_alive(attempt, leg) for leg in legs))
        dead = [leg for leg, lives in zip(legs, alive, strict=True) if not lives]
        for leg in dead:
            worker = attempt.worker(leg)
            self._log.event("not_retried", task=attempt.request.task, leg=leg, worker=worker.name, rid=attempt.rid)
            # one that reads a long prompt answers nobody meanwhile, and one that answers others lives: its probe judges
            if not worker.load.is_tokenizing(self.now()) and self.progressed(worker) < asked:
                self.eject(worker.name, "its process ended or does not answer")
        if dead:
            raise worker_died(dead[0])

    async def _is_alive(self, attempt: Attempt, leg: Leg) -> bool:
        worker, before = attempt.worker(leg), attempt.incarnations[leg]
        return worker.incarnation == before == await self.client.incarnation(worker.spec)

    def _send(self, request: PairRequest, pair: Pair, ticket: Ticket, fresh: bool) -> Attempt:
        rid, room = new_leg_ids(self._random_bytes.read(24))
        attempt = Attempt(request, pair, rid, ticket, self.now(), self._loop.create_future())
        bodies = leg_bodies(request, pair, rid=rid, room=room)
        attempt.hold()
        for worker in pair:
            self._registry.pick(worker)
            worker.load.note_body(len(bodies.decode), self.now())
        self.attempts.add(attempt)
        ticket.attempts.add(attempt)
        ticket.tries.append(attempt)
        path, (prefill, decode) = request.endpoint, pair
        send = partial(self.client.send, fresh=fresh, max_bytes=int(self._limits.max_answer_mb * (1 << 20)))
        attempt.legs = {
            "prefill": send(prefill.spec, path, bodies.prefill, partial(self._prefilled, attempt)),
            "decode": send(decode.spec, path, bodies.decode, partial(attempt.record, "decode"), streams=request.stream),
        }
        return attempt

    def _prefilled(self, attempt: Attempt, said: LegResult) -> None:
        attempt.record("prefill", said)
        outcome = leg_outcome(said)
        if outcome == "ok":
            attempt.times.prefilled = self.now()
            attempt.pair.prefill.note_progress(self.clock.now())
            attempt.decoding_since = None if attempt.request.stream else self.clock.now()
        self._release(attempt, "prefill", outcome)
        if attempt.ticket.counted and outcome == "ok":
            self._metrics.leg_seconds.labels(attempt.request.task, "prefill").observe(self.now() - attempt.times.sent)

    def expire(self, attempt: Attempt, limit: float, whole: bool) -> None:
        """End an attempt whose deadline of `limit` seconds passed; see `Attempt.expire`."""
        silent = self.clock.now() - self.progressed(attempt.worker(attempt.awaited_leg))
        attempt.expire(limit, silent=silent, whole=whole)

    def _answer(self, attempt: Attempt) -> PairResponse:
        decode, prefill = attempt.results["decode"], attempt.results["prefill"]
        assert isinstance(decode, LegResponse), "only a decode leg that answered is served"
        attempt.times.first = self.now()
        attempt.pair.decode.note_progress(self.clock.now())
        if attempt.request.stream and attempt.times.prefilled is not None and attempt.ticket.counted:
            waited = attempt.times.first - attempt.times.prefilled
            self._metrics.hand_over.labels(attempt.request.task).observe(waited)
        body = prefill.head if attempt.request.needs_prefill and isinstance(prefill, LegResponse) else None
        answer = PairResponse(self, attempt, decode.head, body)
        if not attempt.request.stream:
            answer.finish()
        return answer

    def _is_over(self, attempt: Attempt, leg: Leg) -> bool:
        said = attempt.results[leg]
        if isinstance(said, LegFailure):
            return said.refused
        return isinstance(said, LegResponse) and not (said.streamed and said.status == 200) and attempt.legs[leg].over

    def _release(self, attempt: Attempt, leg: Leg, outcome: str) -> None:
        if attempt.release(leg) and attempt.ticket.counted:
            self._metrics.legs.labels(attempt.request.task, leg, outcome).inc()

    def _close(self, attempt: Attempt) -> None:
        if attempt.times.ended is None:
            attempt.times.ended = self.now()
        self.attempts.discard(attempt)
        attempt.ticket.attempts.discard(attempt)
        attempt.legs["decode"].close()

    async def _settle(self, attempt: Attempt) -> None:
        """Let both connections come to their end, so that they can be used again."""
        try:
            async with asyncio.timeout(self._deadlines.linger):
                with suppress(LegError):
                    await attempt.legs["prefill"].finished()
                await attempt.legs["decode"].finished()
        except (TimeoutError, LegError):
            self.abandon(attempt)
        else:
            self._close(attempt)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def aborted_early() -> ApiError:
    """The answer to a request whose abort was asked for before any worker had it."""
    return ApiError(400, "the request was aborted before it reached a worker", code="aborted")
