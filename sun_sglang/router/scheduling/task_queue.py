"""One task in the fair queue: its share, its held slots, and its requests that wait. State; no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

# While requests that begin a session wait, one of them goes after this many that continue one: a task whose sessions
# never end must not keep new ones out. A session of fewer calls leaves room for its successor in time.
MOST_CONTINUED = 16


class Caps(NamedTuple):
    """Limits on answers in flight; None is no limit."""

    requests: int | None = None
    tokens: int | None = None

    def fit(self, requests: int, tokens: int) -> bool:
        """Return whether this many answers, with this much expected work in tokens, may be in flight."""
        return (self.requests is None or requests <= self.requests) and (self.tokens is None or tokens <= self.tokens)

    def counted(self, tokens: int) -> int:
        """Return the tokens that an answer counts as: at most half of the cap.

        No single answer then has to wait for an empty router, or keeps all others out.
        """
        return tokens if self.tokens is None else min(tokens, max(1, self.tokens // 2))


class Share(NamedTuple):
    """A task's part of the router: its weight among the tasks that wait, and its own caps."""

    weight: float = 1.0
    caps: Caps = Caps()


class FairShare(NamedTuple):
    """The slots and tokens that a task of weight 1 is entitled to; infinite where there is no cap."""

    requests: float
    tokens: float


@dataclass(eq=False, slots=True)
class Claim:
    """A claim to a slot for one answer.

    Attributes:
        task: the task of the answer.
        tokens: expected work, at least 1; `Caps.counted` of it once the fair queue has the claim.
        held: whether the answer may go to workers. Otherwise the claim waits, or was released.
        request: the request of the answer while its claims wait; the fair queue sets it.
    """

    task: str
    tokens: int
    held: bool = False
    request: QueuedRequest | None = None


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """The claims of one request.

    Attributes:
        waiting: the claims that still wait, in order.
        held: the number of claims that hold a slot.
        continues: it continues a session whose context a worker has.
        overtaken: requests that came later and were queued directly before it.
    """

    waiting: deque[Claim] = field(default_factory=deque)
    held: int = 0
    continues: bool = False
    overtaken: int = 0

    @property
    def goes_first(self) -> bool:
        """Whether no request that comes later may be queued directly before it."""
        return self.continues or self.overtaken >= MOST_CONTINUED


@dataclass(eq=False, slots=True)
class TaskQueue:
    """One task.

    Attributes:
        share: its weight and caps.
        pending: its requests that wait, in the order of their turns.
        full: its requests that hold all slots that one request may hold, and wait for one of these to be released.
        requests: slots that it holds.
        tokens: the expected work of these.
        virtual: its virtual time in the fair queue: tokens served while it waited, divided by its weight.
        weight: the weight of its share.
        has_room: whether its own caps let its next answer go. Stored, since each choice reads it for every waiting
            task.
    """

    share: Share = field(default_factory=Share)
    pending: deque[QueuedRequest] = field(default_factory=deque)
    full: set[QueuedRequest] = field(default_factory=set)
    requests: int = 0
    tokens: int = 0
    virtual: float = 0.0
    weight: float = 1.0
    has_room: bool = True

    @property
    def head(self) -> Claim:
        """The claim of its next answer."""
        return self.pending[0].waiting[0]

    @property
    def waiting(self) -> int:
        """The number of its answers that wait."""
        return sum(len(request.waiting) for request in (*self.pending, *self.full))

    def add(self, request: QueuedRequest, *, head_stays: bool) -> None:
        """Queue a request: behind the others, or before those that begin a session if it continues one.

        Args:
            request: the request.
            head_stays: the task has its turn, and its next answer waits for room: no smaller one may pass it.
        """
        if request.continues:
            for position, other in enumerate(self.pending):
                if not other.goes_first and not (head_stays and position == 0):
                    other.overtaken += 1
                    self.pending.insert(position, request)
                    return
        self.pending.append(request)

    def count(self, requests: int, tokens: int) -> None:
        """Add to the slots and tokens that the task holds."""
        self.requests += requests
        self.tokens += tokens
        self.update()

    def set_share(self, share: Share) -> None:
        """Replace the share."""
        self.share, self.weight = share, share.weight
        self.update()

    def update(self) -> None:
        """Compute `has_room` again, after a change of what the task holds, of its share, or of its next answer."""
        self.has_room = bool(self.pending) and self.fits(self.head)

    def fits(self, claim: Claim) -> bool:
        """Return whether the task's own caps let an answer go now."""
        # a cap that was lowered meanwhile may be below an answer that waits: it goes alone
        return not self.requests or self.share.caps.fit(self.requests + 1, self.tokens + claim.tokens)

    def dominant_usage(self, due: FairShare) -> float:
        """Return the part of its share that the task holds, of slots or of tokens, whichever part is larger."""
        return max(self.requests / due.requests, self.tokens / due.tokens) / self.weight
