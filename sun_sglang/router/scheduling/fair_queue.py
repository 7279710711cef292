"""Decide which answer may go to workers next: caps, queues, and each task's share. Pure; no clock.

Occupancy decides first. While tasks wait, each task is entitled to its weight's share of the answers in flight
(weighted max-min fairness): a task below its share goes before every task that is not. Start-time fair queueing by
tokens (Goyal, Vin and Cheng, 1996) decides the rest: the slot to which no task is entitled as a whole. A share that its
task does not use is divided among the tasks that wait.

The chosen task keeps its turn until its answer fits below the cap on tokens, so that smaller answers of other tasks
cannot keep a large one waiting forever.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from sun_sglang.router.scheduling.task_queue import Caps, Claim, FairShare, QueuedRequest, Share, TaskQueue

# Tokens that a task may be ahead or behind in the fair queue. Occupancy may let a task ahead for as long as its answers
# are shorter than their limits; it must not have to make up for all of that once its share shrinks.
_MEMORY = 32768
# Answers of one request in flight at once. SGLang's HTTP server takes milliseconds of its event loop for each, and
# answers no other request meanwhile: 4,096 at once made workers silent for 20 s.
ANSWERS_AT_ONCE = 128
# Shares are floats: a difference of this part of a share is rounding.
_ROUNDING = 1e-9


class QueueFull(Exception):  # noqa: N818 - a result, not an error of the router's
    """The queue of the task holds as many requests as it may."""


class FairQueue:
    """Counts the answers in flight, and queues the others.

    Each answer of a request has a claim of its own. A task's requests take turns, one claim in each turn, so that a
    request for many answers delays other requests of its task by one answer at a time.

    Args:
        caps: the caps of all tasks together.
        queue_size: requests of one task that may wait. A request that holds a slot may wait for more in any case.
        share_of: returns a task's current share; called with each request.
        at_once: slots that one request may hold.

    Attributes:
        requests: number of slots held.
        tokens: expected work of the answers that hold them.
    """

    def __init__(
        self, caps: Caps, queue_size: int, share_of: Callable[[str], Share], at_once: int = ANSWERS_AT_ONCE
    ) -> None:
        self._caps = caps
        self._at_once = at_once
        self._queue_size = queue_size
        self._share_of = share_of
        self._queues: dict[str, TaskQueue] = {}
        self._waiting: dict[str, TaskQueue] = {}
        # the task that has its turn, while its answer does not fit
        self._turn: TaskQueue | None = None
        self._virtual = 0.0
        self.requests = 0
        self.tokens = 0

    def acquire(self, claims: Sequence[Claim], *, continues: bool = False) -> list[Claim]:
        """Claim the slots of one request's answers. Return the claims that are held now; the others wait.

        Args:
            claims: of one request.
            continues: it continues a session, and waits before the requests of its task that begin one.

        Raises:
            QueueFull: no claim can be held now, and the request may not wait.
        """
        task = claims[0].task
        queue = self._queue_of(task)
        for claim in claims:
            claim.tokens = queue.share.caps.counted(self._caps.counted(max(1, claim.tokens)))
        if len(claims) == 1 and not self._waiting and queue.fits(claims[0]) and self._fits(claims[0]):
            # no task competes, so there is nothing to choose
            self._hold(queue, claims[0])
            return [claims[0]]
        begins = not queue.pending and self._turn is None and queue.fits(claims[0]) and self._fits(claims[0])
        if not begins and len(queue.pending) >= self._queue_size:
            raise QueueFull
        request = QueuedRequest(deque(claims), continues=continues)
        for claim in claims:
            claim.request = request
        self._enqueue(task, queue, request)
        return self._admit()

    def release(self, claims: Iterable[Claim]) -> list[Claim]:
        """Release slots, or withdraw claims that wait. Return the claims that are held as a result."""
        for claim in claims:
            queue, request = self._queues[claim.task], claim.request
            claim.request = None
            if claim.held:
                claim.held = False
                queue.count(-1, -claim.tokens)
                self.requests -= 1
                self.tokens -= claim.tokens
                if request is not None:
                    self._note_released(claim.task, queue, request)
            elif request is not None:
                request.waiting.remove(claim)
                if not request.waiting:
                    self._withdraw(claim.task, request)
                queue.update()
                if self._turn is queue:
                    # its next answer may be another
                    self._turn = None
        return self._admit()

    def waiting(self, task: str) -> int:
        """Return the number of answers of a task that wait."""
        queue = self._queues.get(task)
        return queue.waiting if queue else 0

    def _fits(self, claim: Claim) -> bool:
        return self._caps.fit(self.requests + 1, self.tokens + claim.tokens)

    def _queue_of(self, task: str) -> TaskQueue:
        share = self._share_of(task)
        queue = self._queues.get(task)
        if queue is None:
            queue = self._queues[task] = TaskQueue()
        if queue.share is not share:
            queue.set_share(share)
        return queue

    def _enqueue(self, task: str, queue: TaskQueue, request: QueuedRequest) -> None:
        if not queue.pending:
            # a task gains no advantage from a time in which it did not wait
            queue.virtual = max(queue.virtual, self._virtual)
            self._waiting[task] = queue
        queue.add(request, head_stays=self._turn is queue)
        queue.update()

    def _note_released(self, task: str, queue: TaskQueue, request: QueuedRequest) -> None:
        request.held -= 1
        if request in queue.full:
            queue.full.discard(request)
            self._enqueue(task, queue, request)

    def _withdraw(self, task: str, request: QueuedRequest) -> None:
        queue = self._queues[task]
        if request in queue.full:
            queue.full.discard(request)
            return
        queue.pending.remove(request)
        if not queue.pending:
            del self._waiting[task]

    def _admit(self) -> list[Claim]:
        """Fill the free slots, and return their claims."""
        admitted: list[Claim] = []
        while self._waiting and self._caps.fit(self.requests + 1, self.tokens + 1):
            queue = self._turn
            if queue is None or not queue.has_room:
                # a task at its own caps does not compete
                queues = [q for q in self._waiting.values() if q.has_room]
                self._turn = queue = self._choose(queues) if queues else None
            if queue is None or not self._fits(queue.head):
                break
            self._turn = None
            admitted.append(self._admit_head(queue))
        return admitted

    def _choose(self, queues: list[TaskQueue]) -> TaskQueue:
        """Return the task that gets the next slot, of the tasks that compete for it."""
        by_virtual = attrgetter("virtual")
        # tokens that tasks got while no task was behind are not counted against them
        self._virtual = max(self._virtual, min(queues, key=by_virtual).virtual)
        if len(queues) == 1:
            return queues[0]
        due = self._due(queues)
        # local names: this runs over all tasks that wait, for every answer that is admitted
        slots, work = due.requests * (1 + _ROUNDING), due.tokens * (1 + _ROUNDING)
        below = [
            q for q in queues if q.requests + 1 <= slots * q.weight and q.tokens + q.head.tokens <= work * q.weight
        ]
        if below:
            return min(below, key=lambda q: q.dominant_usage(due))
        slots, work = due.requests * (1 - _ROUNDING), due.tokens * (1 - _ROUNDING)
        partly = [q for q in queues if q.requests < slots * q.weight and q.tokens < work * q.weight]
        # with caps on both requests and tokens, each task may already have its share of one of the two
        chosen = min(partly or queues, key=by_virtual)
        self._virtual = max(self._virtual, chosen.virtual)
        return chosen

    def _due(self, queues: Sequence[TaskQueue]) -> FairShare:
        """Divide the slots and tokens that these tasks hold, and the free ones, by the weights of the tasks."""
        weight = sum([q.weight for q in queues])
        requests = tokens = math.inf
        if self._caps.requests is not None:
            requests = (self._caps.requests - self.requests + sum([q.requests for q in queues])) / weight
        if self._caps.tokens is not None:
            tokens = (self._caps.tokens - self.tokens + sum([q.tokens for q in queues])) / weight
        return FairShare(requests, tokens)

    def _admit_head(self, queue: TaskQueue) -> Claim:
        request = queue.pending.popleft()
        claim = request.waiting.popleft()
        request.held += 1
        if request.waiting:
            if request.held < self._at_once:
                queue.pending.append(request)
            else:
                queue.full.add(request)
        if not queue.pending:
            del self._waiting[claim.task]
        memory = _MEMORY / queue.weight
        behind = min(max(queue.virtual, self._virtual - memory), self._virtual + memory)
        queue.virtual = behind + claim.tokens / queue.weight
        self._hold(queue, claim)
        return claim

    def _hold(self, queue: TaskQueue, claim: Claim) -> None:
        claim.held = True
        queue.count(1, claim.tokens)
        self.requests += 1
        self.tokens += claim.tokens
