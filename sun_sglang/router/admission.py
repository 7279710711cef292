"""Which request may go to workers next: caps, queues, and each task's share. Pure; no clock.

Deficit round robin (Shreedhar and Varghese, 1996) over tasks, by tokens. While requests wait, a task gets its weight's
share of the tokens admitted, whatever it asks for; while none waits, nothing is held back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

# Tokens that a task of weight 1 may admit in its turn. Small, so that turns are short; shares are kept to within one of
# these and the largest request of each task.
QUANTUM = 512


class Caps(NamedTuple):
    """What may be in flight at once; None is no cap."""

    requests: int | None = None
    tokens: int | None = None


class Share(NamedTuple):
    """A task's part of the router: its weight among those that wait, and its own caps."""

    weight: float = 1.0
    caps: Caps = Caps()


@dataclass(eq=False, slots=True)
class Claim:
    """A request that is in flight, or waits to be.

    Attributes:
        task: whose.
        requests: answers that it asks for.
        tokens: expected work.
        admitted: it may go to workers.
    """

    task: str
    requests: int
    tokens: int
    admitted: bool = False


class QueueFull(Exception):  # noqa: N818 - what happened, not an error of ours
    """A task has as many requests waiting as may wait."""


@dataclass(eq=False, slots=True)
class _Lane:
    share: Share
    queue: deque[Claim] = field(default_factory=deque)
    requests: int = 0
    tokens: int = 0
    deficit: float = 0.0
    fresh: bool = True

    def fits(self, claim: Claim) -> bool:
        return _fits(claim, self.requests, self.tokens, self.share.caps)


class Admission:
    """Counts what is in flight, and keeps what has to wait.

    Args:
        caps: for all tasks together.
        queue_size: requests of one task that may wait.
        share_of: a task's share, asked anew whenever its queue is empty, since it may change while the router runs.
    """

    def __init__(self, caps: Caps, queue_size: int, share_of: Callable[[str], Share]) -> None:
        self._caps = caps
        self._queue_size = queue_size
        self._share_of = share_of
        self._lanes: dict[str, _Lane] = {}
        self._ring: deque[_Lane] = deque()
        self.requests = 0
        self.tokens = 0

    def enter(self, claim: Claim) -> list[Claim]:
        """A request came. Returns those admitted by that: itself, or none, in which case it waits.

        Raises:
            QueueFull: it cannot even wait.
        """
        lane = self._lane(claim.task)
        if not self._ring and lane.fits(claim) and self._fits(claim):
            self._admit(lane, claim)
            return [claim]
        if len(lane.queue) >= self._queue_size and not self._is_next(lane, claim):
            raise QueueFull
        if not lane.queue:
            lane.deficit, lane.fresh = 0.0, True
            self._ring.append(lane)
        lane.queue.append(claim)
        return self._serve()

    def leave(self, claim: Claim) -> list[Claim]:
        """A request ended, or does not want to wait any more. Returns those admitted by that."""
        lane = self._lanes[claim.task]
        if claim.admitted:
            claim.admitted = False
            lane.requests -= claim.requests
            lane.tokens -= claim.tokens
            self.requests -= claim.requests
            self.tokens -= claim.tokens
        else:
            lane.queue.remove(claim)
            if not lane.queue:
                self._ring.remove(lane)
        return self._serve() if self._ring else []

    def waiting(self, task: str) -> int:
        """Requests of a task that wait."""
        lane = self._lanes.get(task)
        return len(lane.queue) if lane else 0

    def _lane(self, task: str) -> _Lane:
        lane = self._lanes.get(task)
        if lane is None:
            lane = self._lanes[task] = _Lane(self._share_of(task))
        elif not lane.queue:
            lane.share = self._share_of(task)
        return lane

    def _is_next(self, lane: _Lane, claim: Claim) -> bool:
        """Where nothing may wait, a request still goes ahead of those that their own tasks' caps hold back."""
        held = all(not other.fits(other.queue[0]) for other in self._ring)
        return not lane.queue and held and lane.fits(claim) and self._fits(claim)

    def _serve(self) -> list[Claim]:
        admitted: list[Claim] = []
        passed = 0
        short: list[_Lane] = []
        while self._ring:
            if passed == len(self._ring):
                if not short:
                    break
                _skip_rounds(short)
                passed, short = 0, []
            lane = self._ring[0]
            claim = lane.queue[0]
            if not lane.fits(claim):
                self._pass()
                passed += 1
                continue
            if lane.fresh:
                lane.deficit += QUANTUM * lane.share.weight
                lane.fresh = False
            if claim.tokens > lane.deficit:
                lane.fresh = True
                short.append(lane)
                self._pass()
                passed += 1
                continue
            if not self._fits(claim):
                # it keeps its turn, so that smaller requests of others cannot keep it waiting for ever
                break
            lane.queue.popleft()
            lane.deficit -= claim.tokens
            if not lane.queue:
                self._ring.popleft()
            self._admit(lane, claim)
            admitted.append(claim)
            passed, short = 0, []
        return admitted

    def _pass(self) -> None:
        self._ring.rotate(-1)

    def _admit(self, lane: _Lane, claim: Claim) -> None:
        claim.admitted = True
        lane.requests += claim.requests
        lane.tokens += claim.tokens
        self.requests += claim.requests
        self.tokens += claim.tokens

    def _fits(self, claim: Claim) -> bool:
        return _fits(claim, self.requests, self.tokens, self._caps)


def _fits(claim: Claim, requests: int, tokens: int, caps: Caps) -> bool:
    """A request that is larger than a cap goes alone: it could never go otherwise."""
    if requests == 0:
        return True
    if caps.requests is not None and requests + claim.requests > caps.requests:
        return False
    return caps.tokens is None or tokens + claim.tokens <= caps.tokens


def _skip_rounds(lanes: list[_Lane]) -> None:
    """Let the rounds pass in which no deficit would suffice, but for the one that the next turn brings."""
    rounds = min(math.ceil((x.queue[0].tokens - x.deficit) / (QUANTUM * x.share.weight)) for x in lanes) - 1
    for lane in lanes:
        lane.deficit += rounds * QUANTUM * lane.share.weight
