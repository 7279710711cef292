"""Where requests wait until they may go to workers: `admission` with futures and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from sun_sglang.router.admission import Admission, Caps, Claim, QueueFull, Share
from sun_sglang.router.attempt import Ticket
from sun_sglang.router.clock import Clock
from sun_sglang.router.fleet import Fleet
from sun_sglang.router.metrics import Metrics
from sun_sglang.router.problem import Problem
from sun_sglang.router.registry import Registry


class Gate:
    """Lets requests to workers in an order that is fair to tasks."""

    def __init__(self, registry: Registry, metrics: Metrics, clock: Clock) -> None:
        self._clock = clock
        self._registry = registry
        self._metrics = metrics
        limits = registry.fleet.router
        self._timeout = limits.queue_timeout
        caps = Caps(_part(limits.max_requests, limits.processes), _part(limits.max_tokens, limits.processes))
        self._admission = Admission(caps, limits.queue_size, self._share)
        self._waiting: dict[Claim, asyncio.Future[None]] = {}
        self._fleet = registry.fleet
        self._shares: dict[str, Share] = {}

    async def enter(self, tickets: Sequence[Ticket], tokens: int) -> Claim:
        """Wait for a request's turn. Whoever gets a claim has to `leave` with it.

        Args:
            tickets: one for each answer; an abort of one ends the wait.
            tokens: expected work, all answers together.

        Raises:
            Problem: 429 if too many wait or the turn does not come in time, 503 if nothing can serve the task, 400 if
                the client asked for an abort.
        """
        task = tickets[0].task
        claim = Claim(task, len(tickets), tokens)
        try:
            self._wake(self._admission.enter(claim))
        except QueueFull:
            raise self._refusal(task, "full") from None
        if not claim.admitted:
            await self._wait(claim, tickets)
        return claim

    def leave(self, claim: Claim) -> None:
        """A request ended; the next may go."""
        self._wake(self._admission.leave(claim))

    def close(self, problem: Problem) -> None:
        """Answer all that wait with a problem."""
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(problem)

    def waiting(self, task: str) -> int:
        """Requests of a task that wait."""
        return self._admission.waiting(task)

    async def _wait(self, claim: Claim, tickets: Sequence[Ticket]) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[claim] = future
        for ticket in tickets:
            ticket.waiting = future
        timer = self._clock.call_later(self._timeout, partial(_expire, future))
        began = loop.time()
        try:
            if not self._registry.usable(claim.task):
                raise self._refusal(claim.task, "full")
            self._metrics.queued.labels(claim.task).inc()
            try:
                await future
            finally:
                self._metrics.queued.labels(claim.task).dec()
        except BaseException as e:
            # it may have been admitted in the same turn of the loop in which its client left
            self._wake(self._admission.leave(claim))
            if isinstance(e, TimeoutError):
                raise self._refusal(claim.task, "timeout") from None
            raise
        finally:
            timer.cancel()
            del self._waiting[claim]
            for ticket in tickets:
                ticket.waiting = None
                ticket.queued = loop.time() - began
            self._metrics.queue_seconds.labels(claim.task).observe(loop.time() - began)

    def _wake(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            future = self._waiting.get(claim)
            if future is not None and not future.done():
                future.set_result(None)

    def _refusal(self, task: str, why: str) -> Problem:
        if not self._registry.usable(task):
            return Problem(503, f"no worker can serve task `{task}` now", code="no_worker")
        self._metrics.turned_away.labels(task, why).inc()
        if why == "full":
            return Problem(429, f"too many requests of task `{task}` are waiting; try again later", code="queue_full")
        return Problem(429, f"no turn within {self._timeout:g} s; try again later", code="queue_timeout")

    def _share(self, task: str) -> Share:
        if self._fleet is not self._registry.fleet:
            self._fleet, self._shares = self._registry.fleet, {}
        share = self._shares.get(task)
        if share is None:
            share = self._shares[task] = _share_in(self._fleet, task)
        return share


def _share_in(fleet: Fleet, task: str) -> Share:
    known = fleet.tasks.get(task)
    if known is None:
        return Share()
    processes = fleet.router.processes
    return Share(known.weight, Caps(_part(known.max_requests, processes), _part(known.max_tokens, processes)))


def _part(cap: int | None, processes: int) -> int | None:
    """A cap, divided among the router's processes: the kernel spreads connections over them."""
    return None if cap is None else max(1, cap // processes)


def _expire(future: asyncio.Future[None]) -> None:
    with suppress(asyncio.InvalidStateError):
        future.set_exception(TimeoutError())
