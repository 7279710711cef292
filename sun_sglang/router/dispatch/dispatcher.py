"""Get an answer from a pair of workers, with one retry on another pair."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Set
from dataclasses import replace
from functools import partial

from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Attempt, Ticket
from sun_sglang.router.dispatch.ejection import Ejector
from sun_sglang.router.dispatch.failover.continued_response import ContinuedResponse
from sun_sglang.router.dispatch.failover.losses import Loss
from sun_sglang.router.dispatch.failover.mover import Mover
from sun_sglang.router.dispatch.failover.replay_reports import ReplayReports
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.dispatch.outcome.decision import AttemptFailed, Relay, Serve, aborted_early
from sun_sglang.router.dispatch.pair_recovery import PairRecovery
from sun_sglang.router.dispatch.pair_response import Answer, PairResponse
from sun_sglang.router.dispatch.running_attempts import RunningAttempts
from sun_sglang.router.dispatch.worker_death import DeathCheck, worker_died
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.transport.messages import LegResponse
from sun_sglang.router.transport.worker_client import WorkerClient
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker_paths import Pair

ATTEMPTS = 2


class Dispatcher:
    """Sends requests to pairs of workers and returns their responses.

    Args:
        client: sends legs and aborts.
        registry: the workers and the usable pairs.
        selector: the routing policies.
        metrics: counts attempts and legs.
        log: reports failed attempts.
        clock: for limits on workers.
        deadlines: of legs, aborts and recovery.

    Attributes:
        client: see above.
        attempts: all that are under way.
        ejector: takes workers out of the rotation.
        recovery: selects pairs.
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
        self.attempts = RunningAttempts(client, registry, metrics, clock, deadlines)
        self.ejector = Ejector(registry, metrics, log)
        self.recovery = PairRecovery(registry, selector, clock, deadlines)
        self._mover = Mover(self.attempts, registry)
        self._reports = ReplayReports(self.attempts, metrics, log)
        self._death_check = DeathCheck(client, self.attempts, self.ejector, log)
        self._registry = registry
        self._metrics = metrics
        self._log = log
        self._first_token_timeout = registry.fleet.router.first_token_timeout
        self._closing = False

    async def dispatch(self, request: PairRequest, ticket: Ticket) -> Answer:
        """Return an answer that has started. A stream of a task with failover goes on when its decode worker is lost.

        Raises:
            ApiError: the client receives it instead of an answer. No byte has gone to the client.
        """
        if ticket.failover is None or not request.stream:
            return await self._get(request, ticket)
        response = await self._get(request._replace(tokens=array("i")), ticket)
        if response.attempt.computes is None:
            return response
        try:
            go_on = partial(self._go_on, request, ticket)
            return ContinuedResponse(response, ticket.failover, go_on, self._mover, self._reports)
        except BaseException:
            response.abandon()
            raise

    async def _go_on(
        self, request: PairRequest, ticket: Ticket, lost: PairResponse, tokens: array[int]
    ) -> PairResponse:
        """Return the response of another pair that repeats the tokens of a lost answer and goes on.

        The prefill worker of the lost answer usually has the prompt in its cache.

        Args:
            request: of the answer.
            ticket: of the answer.
            lost: the response whose decode worker was lost.
            tokens: the output tokens so far.

        Raises:
            ApiError: no pair that computes the same answer could go on.
        """
        computes, incarnations = lost.attempt.computes, lost.attempt.incarnations
        assert computes is not None, "such an answer is not continued"
        repeated = request._replace(tokens=tokens, holder=incarnations["prefill"])
        return await self._get(repeated, ticket, incarnations["decode"], computes.goes_on)

    async def _get(
        self,
        request: PairRequest,
        ticket: Ticket,
        lost: str = "",
        accepts: Callable[[Pair], bool] | None = None,
    ) -> PairResponse:
        """Return a response, after one retry on other workers if the first pair failed.

        An attempt that failed only because an idle connection was closed is repeated once on new connections, and does
        not count as the retry. Neither does one whose prefill worker had lost the task's weights, at most `ATTEMPTS`
        times: each worker that has one task's weights may have lost them at the same time. Each attempt has a new
        request id and a new room. An answer of a task with failover is also sent again, and does not use the retry,
        if its decode worker died or stalled, `router.failover_attempts` times, and whenever its worker is emptied.

        Args:
            request: the part that does not depend on the pair.
            ticket: the answer's state.
            lost: incarnation of the decode worker that the answer has left; empty if it has not begun.
            accepts: returns whether a usable pair may serve the request; None if each may.

        Raises:
            ApiError: no pair has answered.
        """
        avoid: set[str] = set()
        # a worker that did not end has failed the answer, and its successor has not
        losers = {lost} if lost else set()
        failed: AttemptFailed | None = None
        loss: Loss | None = None
        left, free, fresh = ATTEMPTS, ATTEMPTS, False
        while left:
            pair = await self.recovery.select(
                request, ticket, avoid, partial(_may_serve, losers, accepts) if losers else None
            )
            if ticket.abort_asked:
                raise aborted_early()
            # a stream may have lost its worker just before the router cut all streams off
            if pair is None or self._closing:
                break
            if failed is not None and not failed.stale and loss is None:
                self._metrics.retries.labels(request.task, failed.leg).inc()
            outcome = await self.try_pair(request, pair, ticket, fresh=fresh)
            if isinstance(outcome, PairResponse):
                return outcome
            failed, tried = outcome, ticket.tries[-1]
            worker = tried.worker(failed.leg)
            event = "stale_connection" if failed.stale else "attempt_failed"
            self._log.event(event, task=request.task, leg=failed.leg, worker=worker.name, why=failed.error.message)
            if failed.eject:
                self.ejector.eject(worker.name, failed.error.message)
            if failed.revoke:
                self._registry.revoke(pair.path)
            if failed.lacks_weights and pair.weights is not None:
                self._registry.weights.revoke(worker.name, tried.incarnations["prefill"], pair.weights)
            loss = failed.loss
            goes_on = failed.retry if loss is None else ticket.survives(loss)
            if not goes_on or ticket.abort_asked or self._closing:
                break
            if loss is None:
                loss = await self._death_check.loss(tried)
            if loss is not None:
                self._reports.begin(tried, loss, len(request.tokens or ()))
                losers.add(tried.incarnations["decode"])
                if loss is Loss.GONE:
                    failed = replace(failed, error=worker_died("decode"))
            elif failed.stale:
                fresh = True
            else:
                if failed.lacks_weights and free:
                    free -= 1
                else:
                    left -= 1
                avoid.update((w.name for w in pair) if failed.revoke else (worker.name,))
        if failed is not None:
            raise failed.error
        if self._closing:
            raise ApiError(503, "the router is shutting down", code="draining")
        others = any(pair.decode.incarnation != lost for pair in self._registry.usable(request.task))
        raise no_same_worker(request.task) if others else no_worker(request.task)

    async def try_pair(
        self, request: PairRequest, pair: Pair, ticket: Ticket, timeout: float | None = None, *, fresh: bool = False
    ) -> PairResponse | AttemptFailed:
        """Make one attempt.

        Args:
            request: the part that does not depend on the pair.
            pair: the workers.
            ticket: the client's request.
            timeout: seconds for the whole answer; None for the fleet's limit on the first token.
            fresh: open new connections instead of using idle ones.

        Raises:
            ApiError: the request itself is at fault; another pair would refuse it too.
        """
        attempt = self.attempts.send(request, pair, ticket, fresh=fresh)
        limit = timeout or self._first_token_timeout
        expire = partial(self.attempts.expire, attempt, limit, whole=timeout is not None)
        timer = self.attempts.clock.call_later(limit, expire)
        try:
            outcome = await attempt.outcome
        except BaseException:
            self.attempts.abandon(attempt)
            raise
        finally:
            timer.cancel()
        if isinstance(outcome, Serve):
            return self._respond(attempt)
        self.attempts.abandon(attempt)
        if isinstance(outcome, Relay):
            raise outcome.error
        return outcome

    def abort(self, ticket: Ticket) -> None:
        """Abort a request for its client: the workers' responses to the abort end it in the usual way."""
        ticket.request_abort()
        for attempt in ticket.attempts:
            self.attempts.abort(attempt)

    def cut_all(self, reason: str) -> None:
        """End every request in flight, and start no attempt from now on; each client receives an explicit error."""
        self._closing = True
        self.ejector.close()
        self.recovery.close()
        self._mover.close()
        self.attempts.cut_all(reason)

    def _respond(self, attempt: Attempt) -> PairResponse:
        decode, prefill = attempt.results["decode"], attempt.results["prefill"]
        assert isinstance(decode, LegResponse), "the outcome `Serve` requires a response of the decode leg"
        first, handed_over = self.attempts.now(), attempt.times.prefilled
        attempt.note_first(first, self.attempts.clock.now())
        if attempt.request.stream and handed_over is not None and attempt.ticket.counted:
            self._metrics.hand_over.labels(attempt.request.task).observe(first - handed_over)
        body = prefill.head if attempt.request.needs_prefill and isinstance(prefill, LegResponse) else None
        response = PairResponse(self.attempts, self.ejector, attempt, decode.head, body)
        if not attempt.request.stream:
            response.finish()
        return response


def _may_serve(losers: Set[str], accepts: Callable[[Pair], bool] | None, pair: Pair) -> bool:
    return pair.decode.incarnation not in losers and (accepts is None or accepts(pair))


def no_worker(task: str) -> ApiError:
    """Return the error for a task without a usable pair."""
    return ApiError(503, f"no worker can serve task `{task}` now", code="no_worker")


def no_same_worker(task: str) -> ApiError:
    """Return the error for an answer that has begun, where all usable pairs compute other ones or repeat nothing."""
    message = f"the workers that can serve task `{task}` now compute another answer, or cannot repeat the begun one"
    return ApiError(503, message, code="no_worker")
