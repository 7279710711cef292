"""Decide which answer may go to workers next: caps, queues, and each task's share. Pure; no clock.

Occupancy decides first. While tasks wait, each is entitled to its weight's share of what may be in flight at once
(weighted max-min fairness): a task that is below its share goes before every task that is not. Start-time fair queueing
by tokens (Goyal, Vin and Cheng, 1996) decides what occupancy leaves open: who gets the slot that no task is entitled to
as a whole. A share that its task does not use is divided among the tasks that wait.

The chosen task keeps its turn until its answer fits below the cap on tokens, so that smaller answers of others cannot
keep a large one waiting forever.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

# Tokens that a task may be ahead or behind in the fair queue. Occupancy may let a task ahead for as long as its answers
# are shorter than their limits; it must not have to make up for all of that once its share shrinks.
_MEMORY = 32768
# Answers of one request in flight at once. SGLang's HTTP server takes milliseconds of its event loop for each and
# answers nobody meanwhile: 4,096 at once made workers silent for 20 s.
ANSWERS_AT_ONCE = 128
# Shares are floats: this much of a share is rounding.
_ROUNDING = 1e-9


class Caps(NamedTuple):
    """The limits of what may be in flight at once, which `Claim.tokens` never exceed; None is no limit."""

    requests: int | None = None
    tokens: int | None = None

    def fit(self, requests: int, tokens: int) -> bool:
        """Return whether so much may be in flight."""
        return (self.requests is None or requests <= self.requests) and (self.tokens is None or tokens <= self.tokens)


class Share(NamedTuple):
    """A task's part of the router: its weight among the tasks that wait, and its own caps."""

    weight: float = 1.0
    caps: Caps = Caps()


@dataclass(eq=False, slots=True)
class Claim:
    """A slot for one answer.

    Attributes:
        task: whose answer it is.
        tokens: expected work, at least 1. An answer that is larger than half of a cap counts as half of it once it is
            acquired: no single answer may wait for an empty router, or keep all others out.
        held: the answer may go to workers. Otherwise the claim waits, or was released.
    """

    task: str
    tokens: int
    held: bool = False
    _request: _Request | None = None


class QueueFull(Exception):  # noqa: N818 - a result, not an error of the router's
    """As many requests of the task wait as may wait."""


@dataclass(eq=False, slots=True)
class _Request:
    """The claims of one request.

    Attributes:
        waiting: those that still wait, in order.
        held: how many hold a slot.
    """

    waiting: deque[Claim] = field(default_factory=deque)
    held: int = 0


@dataclass(eq=False, slots=True)
class _Lane:
    """One task.

    Attributes:
        share: its weight and caps.
        queue: its requests that wait, in the order of their turns.
        full: its requests that wait until one of their own answers ends.
        requests: slots that it holds.
        tokens: their expected work.
        virtual: its virtual time in the fair queue: tokens served while it waited, divided by its weight.
        weight: of its share.
        has_room: its own caps let its next answer go. Stored, since every choice asks all tasks that wait.
    """

    share: Share = field(default_factory=Share)
    queue: deque[_Request] = field(default_factory=deque)
    full: set[_Request] = field(default_factory=set)
    requests: int = 0
    tokens: int = 0
    virtual: float = 0.0
    weight: float = 1.0
    has_room: bool = True

    @property
    def head(self) -> Claim:
        return self.queue[0].waiting[0]

    def count(self, requests: int, tokens: int) -> None:
        """Add to what the task holds."""
        self.requests += requests
        self.tokens += tokens
        self.update()

    def set_share(self, share: Share) -> None:
        """Take over a share, which may have changed."""
        self.share, self.weight = share, share.weight
        self.update()

    def update(self) -> None:
        """Compute `has_room`, after a change of what the task holds, of its share, or of its next answer."""
        self.has_room = bool(self.queue) and self.takes(self.head)

    def takes(self, claim: Claim) -> bool:
        """Return whether the task's own caps let an answer go now."""
        # a cap that was lowered meanwhile may be below an answer that waits: it goes alone
        return not self.requests or self.share.caps.fit(self.requests + 1, self.tokens + claim.tokens)

    def usage(self, due: _Due) -> float:
        """Return the part of its share that the task holds, of the resource that it holds the larger part of."""
        return max(self.requests / due.requests, self.tokens / due.tokens) / self.weight


class _Due(NamedTuple):
    """What a task of weight 1 is entitled to; infinite where there is no cap."""

    requests: float
    tokens: float


class FairQueue:
    """Count what is in flight, and keep what has to wait.

    Each answer of a request has a claim of its own. A task's requests take turns, one claim a turn, so that a request
    for many answers delays other requests of its task by one answer at a time.

    Args:
        caps: for all tasks together.
        queue_size: requests of one task that may wait. A request that holds a slot may wait for more in any case.
        share_of: returns a task's current share; called with each request.
        at_once: slots that one request may hold.

    Attributes:
        requests: slots held.
        tokens: their expected work.
    """

    def __init__(
        self, caps: Caps, queue_size: int, share_of: Callable[[str], Share], at_once: int = ANSWERS_AT_ONCE
    ) -> None:
        self._caps = caps
        self._at_once = at_once
        self._queue_size = queue_size
        self._share_of = share_of
        self._lanes: dict[str, _Lane] = {}
        self._waiting: dict[str, _Lane] = {}
        # the task whose turn it is, while its answer does not fit
        self._turn: _Lane | None = None
        self._virtual = 0.0
        self.requests = 0
        self.tokens = 0

    def acquire(self, claims: Sequence[Claim]) -> list[Claim]:
        """Ask for the slots of one request's answers. Returns the claims that are held now; the others wait.

        Raises:
            QueueFull: none can be held now, and the request may not wait.
        """
        task = claims[0].task
        lane = self._lane(task)
        for claim in claims:
            claim.tokens = _counted(_counted(max(1, claim.tokens), self._caps), lane.share.caps)
        if len(claims) == 1 and not self._waiting and lane.takes(claims[0]) and self._takes(claims[0]):
            # no task competes, so there is nothing to choose
            self._hold(lane, claims[0])
            return [claims[0]]
        begins = not lane.queue and self._turn is None and lane.takes(claims[0]) and self._takes(claims[0])
        if not begins and len(lane.queue) >= self._queue_size:
            raise QueueFull
        request = _Request(deque(claims))
        for claim in claims:
            claim._request = request
        self._enqueue(task, lane, request)
        return self._admit()

    def release(self, claims: Iterable[Claim]) -> list[Claim]:
        """Give slots back, or stop waiting for them. Returns the claims that are held because of that."""
        for claim in claims:
            lane, request = self._lanes[claim.task], claim._request
            claim._request = None
            if claim.held:
                claim.held = False
                lane.count(-1, -claim.tokens)
                self.requests -= 1
                self.tokens -= claim.tokens
                if request is not None:
                    self._held_one_less(claim.task, lane, request)
            elif request is not None:
                request.waiting.remove(claim)
                if not request.waiting:
                    self._withdraw(claim.task, request)
                lane.update()
                if self._turn is lane:
                    # its next answer may be another
                    self._turn = None
        return self._admit()

    def waiting(self, task: str) -> int:
        """Return how many answers of a task wait."""
        lane = self._lanes.get(task)
        return sum(len(request.waiting) for request in (*lane.queue, *lane.full)) if lane else 0

    def _takes(self, claim: Claim) -> bool:
        return self._caps.fit(self.requests + 1, self.tokens + claim.tokens)

    def _lane(self, task: str) -> _Lane:
        share = self._share_of(task)
        lane = self._lanes.get(task)
        if lane is None:
            lane = self._lanes[task] = _Lane()
        if lane.share is not share:
            lane.set_share(share)
        return lane

    def _enqueue(self, task: str, lane: _Lane, request: _Request) -> None:
        if not lane.queue:
            # a task that did not wait gains nothing by that
            lane.virtual = max(lane.virtual, self._virtual)
            self._waiting[task] = lane
        lane.queue.append(request)
        lane.update()

    def _held_one_less(self, task: str, lane: _Lane, request: _Request) -> None:
        request.held -= 1
        if request in lane.full:
            lane.full.discard(request)
            self._enqueue(task, lane, request)

    def _withdraw(self, task: str, request: _Request) -> None:
        lane = self._lanes[task]
        if request in lane.full:
            lane.full.discard(request)
            return
        lane.queue.remove(request)
        if not lane.queue:
            del self._waiting[task]

    def _admit(self) -> list[Claim]:
        """Fill the free slots."""
        admitted: list[Claim] = []
        while self._waiting and self._caps.fit(self.requests + 1, self.tokens + 1):
            lane = self._turn
            if lane is None or not lane.has_room:
                # a task that its own caps hold back does not compete
                lanes = [lane for lane in self._waiting.values() if lane.has_room]
                self._turn = lane = self._choose(lanes) if lanes else None
            if lane is None or not self._takes(lane.head):
                break
            self._turn = None
            admitted.append(self._admit_head(lane))
        return admitted

    def _choose(self, lanes: list[_Lane]) -> _Lane:
        """Choose the task that gets the next slot from those that compete for it."""
        by_virtual = attrgetter("virtual")
        # what tasks got while none of them had to make up for anything is not held against them
        self._virtual = max(self._virtual, min(lanes, key=by_virtual).virtual)
        if len(lanes) == 1:
            return lanes[0]
        due = self._due(lanes)
        # local names: this runs over all tasks that wait, for every answer that is admitted
        slots, work = due.requests * (1 + _ROUNDING), due.tokens * (1 + _ROUNDING)
        below = [
            lane
            for lane in lanes
            if lane.requests + 1 <= slots * lane.weight and lane.tokens + lane.head.tokens <= work * lane.weight
        ]
        if below:
            return min(below, key=lambda lane: lane.usage(due))
        slots, work = due.requests * (1 - _ROUNDING), due.tokens * (1 - _ROUNDING)
        partly = [lane for lane in lanes if lane.requests < slots * lane.weight and lane.tokens < work * lane.weight]
        # with caps on both requests and tokens each task may have its share of one of them
        chosen = min(partly or lanes, key=by_virtual)
        self._virtual = max(self._virtual, chosen.virtual)
        return chosen

    def _due(self, lanes: Sequence[_Lane]) -> _Due:
        """Divide what the caps leave to these tasks, held or free, by their weights."""
        weight = sum([lane.weight for lane in lanes])
        requests = tokens = math.inf
        if self._caps.requests is not None:
            requests = (self._caps.requests - self.requests + sum([lane.requests for lane in lanes])) / weight
        if self._caps.tokens is not None:
            tokens = (self._caps.tokens - self.tokens + sum([lane.tokens for lane in lanes])) / weight
        return _Due(requests, tokens)

    def _admit_head(self, lane: _Lane) -> Claim:
        request = lane.queue.popleft()
        claim = request.waiting.popleft()
        request.held += 1
        if request.waiting:
            if request.held < self._at_once:
                lane.queue.append(request)
            else:
                lane.full.add(request)
        if not lane.queue:
            del self._waiting[claim.task]
        memory = _MEMORY / lane.weight
        behind = min(max(lane.virtual, self._virtual - memory), self._virtual + memory)
        lane.virtual = behind + claim.tokens / lane.weight
        self._hold(lane, claim)
        return claim

    def _hold(self, lane: _Lane, claim: Claim) -> None:
        claim.held = True
        lane.count(1, claim.tokens)
        self.requests += 1
        self.tokens += claim.tokens


def _counted(tokens: int, caps: Caps) -> int:
    """Return the tokens that an answer counts as: at most half of the cap."""
    return tokens if caps.tokens is None else min(tokens, max(1, caps.tokens // 2))
