"""The admission queue: answers wait here for a slot. `scheduling/fair_queue.py` decides the order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.clock import Clock, Timer
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.scheduling.fair_queue import FairQueue, QueueFull
from sun_sglang.router.scheduling.recent_sessions import RecentSessions
from sun_sglang.router.scheduling.task_queue import Caps, Claim, Share
from sun_sglang.router.workers.registry import Registry


class Slot:
    """One answer's place among those in flight: acquired before dispatch, released when workers have made the answer.

    Args:
        queue: grants the slot.
        ticket: of the answer; its abort ends the wait.
        tokens: expected work.
    """

    __slots__ = ("_queue", "claim", "since", "ticket", "timer", "waiting")

    def __init__(self, queue: AdmissionQueue, ticket: Ticket, tokens: int) -> None:
        self._queue = queue
        self.ticket = ticket
        self.claim = Claim(ticket.task, tokens)
        self.waiting: asyncio.Future[None] | None = None
        self.timer: Timer | None = None
        self.since = 0.0

    async def acquire(self) -> None:
        """Wait until the slot is granted.

        Raises:
            ApiError: 429 if no slot was free for any answer of the request within `queue_timeout`, 400 if the client
                asked for an abort, 503 if the router shuts down.
        """
        if self.waiting is not None:
            await self.waiting

    def release(self) -> None:
        """Release the slot for another answer."""
        if self.claim.held:
            self._queue.release((self,))


class AdmissionQueue:
    """Grants slots in an order that is fair to tasks.

    Args:
        registry: the fleet's caps and weights, and the usable pairs.
        metrics: counts waiting answers and refusals.
        clock: for `queue_timeout`.
    """

    def __init__(self, registry: Registry, metrics: Metrics, clock: Clock) -> None:
        self._clock = clock
        self._registry = registry
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        limits = registry.fleet.router
        self._timeout = limits.queue_timeout
        caps = Caps(_part(limits.max_requests, limits.processes), _part(limits.max_tokens, limits.processes))
        self._fair_queue = FairQueue(caps, limits.queue_size, self._share)
        self._sessions = RecentSessions(self._loop.time) if limits.sessions_first else None
        self._waiting: dict[Claim, Slot] = {}
        self._fleet = registry.fleet
        self._shares: dict[str, Share] = {}

    @contextmanager
    def enter(self, slots: Sequence[Slot], session: str | None = None) -> Iterator[None]:
        """Queue for the slots of one request, which are granted one by one; release all of them at the end.

        A request has begun once one of its slots was granted. The other slots then have no limit: `queue_timeout` ends
        no request in its middle.

        Args:
            slots: of the request's answers.
            session: the request's session (`session_name`); None for none. With `sessions_first`, a request that
                continues one waits before those of its task that begin one.

        Raises:
            ApiError: the request would have to wait: 429 if too many wait already, 503 if no pair serves its task.
        """
        sessions = self._sessions
        with nullcontext(False) if sessions is None else sessions.request(session) as continues:
            try:
                self._wake(self._fair_queue.acquire([slot.claim for slot in slots], continues=continues))
            except QueueFull:
                raise self._refusal(slots[0].claim.task, "full") from None
            try:
                late = [slot for slot in slots if not slot.claim.held]
                if late:
                    self._wait(late, begun=len(late) < len(slots))
                yield
            finally:
                self.release(slots)

    def release(self, slots: Sequence[Slot]) -> None:
        """Release slots, and end the wait for those that were not granted."""
        for slot in slots:
            if slot.claim in self._waiting:
                self._end_wait(slot)
        self._wake(self._fair_queue.release([slot.claim for slot in slots]))

    def close(self, error: ApiError) -> None:
        """End all waits with an error."""
        for slot in self._waiting.values():
            _fail(slot, error)

    def waiting(self, task: str) -> int:
        """Return the number of waiting answers of a task."""
        return self._fair_queue.waiting(task)

    def _wait(self, slots: Sequence[Slot], *, begun: bool) -> None:
        task = slots[0].claim.task
        if not begun and not self._registry.usable(task):
            raise self._refusal(task, "full")
        timer = None if begun else self._clock.call_later(self._timeout, partial(self._expire, slots))
        for slot in slots:
            slot.since, slot.timer = self._loop.time(), timer
            slot.waiting = self._loop.create_future()
            slot.ticket.start_wait(slot.waiting)
            self._waiting[slot.claim] = slot
        self._metrics.queued.labels(task).inc(len(slots))

    def _wake(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            slot = self._waiting.get(claim)
            if slot is not None:
                assert slot.waiting is not None, "a slot that waits has a future"
                if not slot.waiting.done():
                    slot.waiting.set_result(None)
                self._end_wait(slot)

    def _end_wait(self, slot: Slot) -> None:
        task, waited = slot.claim.task, self._loop.time() - slot.since
        del self._waiting[slot.claim]
        if slot.timer is not None:
            slot.timer.cancel()
        slot.ticket.end_wait(waited)
        if slot.waiting is not None and slot.waiting.done() and not slot.waiting.cancelled():
            # mark the exception as retrieved: an answer whose request failed for another reason never awaits it
            slot.waiting.exception()
        self._metrics.queued.labels(task).dec()
        self._metrics.queue_seconds.labels(task).observe(waited)

    def _expire(self, slots: Sequence[Slot]) -> None:
        error = self._refusal(slots[0].claim.task, "timeout")
        for slot in slots:
            _fail(slot, error)

    def _refusal(self, task: str, why: str) -> ApiError:
        if not self._registry.usable(task):
            return ApiError(503, f"no worker can serve task `{task}` now", code="no_worker")
        self._metrics.turned_away.labels(task, why).inc()
        if why == "full":
            return ApiError(429, f"too many requests of task `{task}` are waiting; try again later", code="queue_full")
        return ApiError(429, f"no turn within {self._timeout:g} s; try again later", code="queue_timeout")

    def _share(self, task: str) -> Share:
        if self._fleet is not self._registry.fleet:
            self._fleet, self._shares = self._registry.fleet, {}
        share = self._shares.get(task)
        if share is None:
            share = self._shares[task] = _share_in(self._fleet, task)
        return share


def _fail(slot: Slot, error: ApiError) -> None:
    if slot.waiting is not None and not slot.waiting.done():
        slot.waiting.set_exception(error)


def _share_in(fleet: Fleet, task: str) -> Share:
    known = fleet.tasks.get(task)
    if known is None:
        return Share()
    processes = fleet.router.processes
    return Share(known.weight, Caps(_part(known.max_requests, processes), _part(known.max_tokens, processes)))


def _part(cap: int | None, processes: int) -> int | None:
    """Return one process's part of a cap: the kernel spreads connections over the router's processes."""
    return None if cap is None else max(1, cap // processes)
