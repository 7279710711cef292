"""One worker as the router sees it. State; no sockets, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.deadlines import DEFAULT, Deadlines
from sun_sglang.router.workers.pairing import Party
from sun_sglang.router.workers.shared_loads import SharedLoads

# Bytes of a request's body from which its tokenization keeps the worker from answering probes (`tokenize_per_byte`).
LONG_BODY_BYTES = 1 << 16


class State(StrEnum):
    """Where a worker stands."""

    ABSENT = "absent"
    REGISTERING = "registering"
    READY = "ready"
    DRAINING = "draining"
    REFUSED = "refused"


@dataclass(slots=True, eq=False)
class Worker:
    """A worker as the router sees it.

    Attributes:
        spec: name, pool and URL from the fleet file.
        role: `prefill` or `decode`, from its pool.
        card: what it said of itself; None while it is absent.
        reason: why it is absent or refused; empty otherwise.
        admitted: its card passed every rule.
        refused: it answers, and its answer is no valid card.
        draining: it was taken out of rotation by whoever runs the fleet.
        requests: requests that the router has on it now.
        tokens: outstanding work of those requests, in tokens, as far as the router can tell.
        external_requests: requests that it has from others, as it said last.
        external_tokens: outstanding work of those, in tokens.
        picked: when it was last chosen, as a running number.
        answered: clock time at which it last made progress: a good answer, or a batch.
        reading_until: loop time by which it has read and tokenized the long prompts that this process sent it.
        incarnation: the one that was last read, kept while the worker is absent.
        on_lost: called with a reason once the worker is gone for good; each request in flight on it has one here.
        hash: of its name, the same in every process.
        shared: what the router's other processes have on it; None where there is one process.
        slot: where this process shows them its own requests and tokens.
        deadlines: how long it may tokenize.
    """

    spec: FleetWorker
    role: str
    card: WorkerCard | None = None
    reason: str = "not seen yet"
    admitted: bool = False
    refused: bool = False
    draining: bool = False
    requests: int = 0
    tokens: int = 0
    external_requests: int = 0
    external_tokens: int = 0
    picked: int = 0
    answered: float = float("-inf")
    reading_until: float = float("-inf")
    incarnation: str = ""
    on_lost: set[Callable[[str], None]] = field(default_factory=set)
    hash: int = field(init=False)
    shared: SharedLoads | None = None
    slot: memoryview | None = None
    deadlines: Deadlines = DEFAULT

    def __post_init__(self) -> None:
        self.hash = int.from_bytes(hashlib.blake2b(self.spec.name.encode(), digest_size=8).digest(), "little")

    @property
    def name(self) -> str:
        """Its name in the fleet file."""
        return self.spec.name

    @property
    def party(self) -> Party | None:
        """It as others are compared with it; None while it is absent."""
        return None if self.card is None else Party(self.name, self.spec.pool, self.card)

    @property
    def takes_requests(self) -> bool:
        """It may be given new requests, once it is proven."""
        return not (self.draining or (self.card is not None and self.card.leaving))

    @property
    def known(self) -> tuple[int, int]:
        """Requests and tokens that the router itself has on it, all of its processes together."""
        if self.shared is None:
            return self.requests, self.tokens
        requests, tokens = self.shared.external(self.hash)
        return self.requests + requests, self.tokens + tokens

    def share(self, shared: SharedLoads) -> None:
        """Show what this process has on it to the others, and see what they have."""
        self.shared = shared
        self.slot = shared.slot(self.hash)
        self.slot[0], self.slot[1] = self.requests, self.tokens

    def unshare(self) -> None:
        """Take what this process has on it out of the others' sight: it has left the fleet."""
        if self.shared is not None:
            self.shared.release(self.hash)
        self.shared = self.slot = None

    @property
    def load_requests(self) -> int:
        """Requests on it, whoever sent them, as far as the router can tell."""
        return self.known[0] + self.external_requests

    @property
    def load_tokens(self) -> int:
        """Outstanding work on it, in tokens, whoever sent it, as far as the router can tell."""
        return self.known[1] + self.external_tokens

    def acquire(self, tokens: int) -> None:
        """A request of the router's is on it now."""
        self.requests += 1
        self.tokens += tokens
        if self.slot is not None:
            self.slot[0], self.slot[1] = self.requests, self.tokens

    def read(self, size: int, now: float) -> None:
        """Note that a request was sent whose body has `size` bytes; `now` is loop time."""
        if size >= LONG_BODY_BYTES:
            done = max(self.reading_until, now) + size * self.deadlines.tokenize_per_byte
            self.reading_until = min(done, now + self.deadlines.tokenize_max)
            if self.slot is not None:
                self.slot[2] = int(self.reading_until * 1000)

    def is_reading(self, now: float) -> bool:
        """Return whether it may still be reading long prompts of any process of the router; `now` is loop time."""
        shared = self.shared
        return self.reading_until > now or (shared is not None and shared.reading_until(self.hash) > now)

    def release(self, tokens: int) -> None:
        """A request of the router's is not on it any more."""
        self.requests -= 1
        self.tokens -= tokens
        if self.slot is not None:
            self.slot[0], self.slot[1] = self.requests, self.tokens
