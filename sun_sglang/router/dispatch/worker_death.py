"""A worker that dies under a request.

Three things happen, in this order:

1. The connection of its leg breaks, and `decide` (`outcome/decision.py`) returns `AttemptFailed`; the dispatcher ejects
   the worker.
2. Before another pair is tried, `DeathCheck` reads the cards of the workers that had the request. If one of them is not
   the process that received the request, the client gets the error `worker_died` and there is no second attempt: the
   request may be what killed the worker, and would kill the next one. Only a decode worker may die under an answer of
   a task with failover, as often as `router.failover_attempts` allows.
3. Other requests in flight on that worker are lost only once the prober finds that the process is gone
   (`Attempt.fail_prefill`, `Attempt.fail_decode`): one broken connection proves nothing about the others.
"""

from __future__ import annotations

import asyncio

from sun_sglang.router.dispatch.attempt import Attempt
from sun_sglang.router.dispatch.ejection import Ejector
from sun_sglang.router.dispatch.failover.losses import Loss
from sun_sglang.router.dispatch.legs.leg_bodies import LEGS, Leg
from sun_sglang.router.dispatch.outcome.decision import MAY_BE_THE_CAUSE, find_fault
from sun_sglang.router.dispatch.running_attempts import RunningAttempts
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult
from sun_sglang.router.transport.worker_client import WorkerClient


class DeathCheck:
    """Checks after a failed attempt that no worker died under the request.

    Args:
        client: reads the workers' incarnations.
        attempts: for the progress of the workers' other requests.
        ejector: for workers that are dead.
        log: for requests that are not retried.
    """

    def __init__(self, client: WorkerClient, attempts: RunningAttempts, ejector: Ejector, log: Log) -> None:
        self._client = client
        self._attempts = attempts
        self._ejector = ejector
        self._log = log

    async def loss(self, attempt: Attempt) -> Loss | None:
        """Return the loss of a decode worker that the answer survives; None if each worker that had it is alive.

        Raises:
            ApiError: 502 `worker_died`: a worker that had the request did not prove to be the same process.
        """
        legs = [leg for leg in LEGS if had_request(leg, attempt.results[leg], attempt.rid)]
        asked = self._attempts.clock.now()
        alive = await asyncio.gather(*(self._is_alive(attempt, leg) for leg in legs))
        dead = [leg for leg, lives in zip(legs, alive, strict=True) if not lives]
        survived = dead == ["decode"] and attempt.ticket.survives(Loss.GONE)
        for leg in dead:
            worker = attempt.worker(leg)
            event = "worker_died" if survived else "not_retried"
            self._log.event(event, task=attempt.request.task, leg=leg, worker=worker.name, rid=attempt.rid)
            # a worker that tokenizes a long prompt answers nothing else meanwhile, and one that serves others is alive:
            # the prober decides on both
            if not worker.load.is_tokenizing(self._attempts.now()) and self._attempts.last_progress(worker) < asked:
                self._ejector.eject(worker.name, "its process ended or does not answer")
        if dead and not survived:
            raise worker_died(dead[0])
        return Loss.GONE if survived else None

    async def _is_alive(self, attempt: Attempt, leg: Leg) -> bool:
        if leg == "decode" and attempt.loss is Loss.GONE:
            # the prober knows it already, and a process that is stopped would delay the answer
            return False
        worker, before = attempt.worker(leg), attempt.incarnations[leg]
        return worker.incarnation == before == await self._client.incarnation(worker.spec)


def had_request(leg: Leg, result: LegResult | None, rid: str) -> bool:
    """Return whether a worker may have died of the request: it received the request and had not finished it.

    A refused connection carried nothing. A complete good response ends the worker's part.

    Args:
        leg: the worker's leg.
        result: its result; None while it runs.
        rid: the request id.
    """
    match result:
        case LegFailure(refused=refused):
            return not refused
        case LegResponse(status=200, streamed=False):
            return find_fault(leg, result, rid) is not None
    return True


def worker_died(leg: Leg) -> ApiError:
    """Return the error for a request whose worker died while it had the request."""
    message = f"the {leg} worker died or stopped answering while it had this request. {MAY_BE_THE_CAUSE}"
    return ApiError(502, message, code="worker_died")
