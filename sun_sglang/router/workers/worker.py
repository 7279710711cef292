"""One worker as the router sees it. State; no sockets, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.deadlines import DEFAULT, Deadlines
from sun_sglang.router.workers.compatibility import NamedCard
from sun_sglang.router.workers.worker_load import WorkerLoad


class State(StrEnum):
    """The state of a worker, as `/tasks` and `/metrics` show it."""

    ABSENT = "absent"
    REGISTERING = "registering"
    READY = "ready"
    DRAINING = "draining"
    REFUSED = "refused"


class Worker:
    """A worker's registration, and its load.

    Every field is read-only for other classes; each change has a method here. The registry calls those of the
    registration, since it also keeps the paths in step.

    Args:
        spec: name, pool and URL from the fleet file.
        role: `prefill` or `decode`, from its pool.
        deadlines: limits on the time for which a worker may tokenize.

    Attributes:
        name: name in the fleet file.
        role: as above.
        hash: hash of the name, equal in every process.
        load: requests and tokens on the worker.
    """

    __slots__ = (
        "_admitted",
        "_card",
        "_draining",
        "_has_invalid_card",
        "_incarnation",
        "_last_pick",
        "_last_progress",
        "_loss_callbacks",
        "_reason",
        "_spec",
        "hash",
        "load",
        "name",
        "role",
    )

    def __init__(self, spec: FleetWorker, role: str, deadlines: Deadlines = DEFAULT) -> None:
        self.name: Final = spec.name
        self.role: Final = role
        self.hash: Final = int.from_bytes(hashlib.blake2b(spec.name.encode(), digest_size=8).digest(), "little")
        self.load: Final = WorkerLoad(self.hash, deadlines)
        self._spec = spec
        self._draining = spec.draining
        self._card: WorkerCard | None = None
        self._reason = "it has not been probed yet"
        self._admitted = False
        self._has_invalid_card = False
        self._incarnation = ""
        self._last_pick = 0
        self._last_progress = float("-inf")
        self._loss_callbacks: set[Callable[[str], None]] = set()

    # --- registration -----------------------------------------------------------------------------------------------

    @property
    def spec(self) -> FleetWorker:
        """The worker's entry in the fleet file."""
        return self._spec

    @property
    def card(self) -> WorkerCard | None:
        """The card that the worker served last; None while it is absent."""
        return self._card

    @property
    def named_card(self) -> NamedCard | None:
        """The card with the names of worker and pool; None while the worker is absent."""
        return None if self._card is None else NamedCard(self.name, self._spec.pool, self._card)

    @property
    def reason(self) -> str:
        """Why the worker is absent, refused or leaving; empty otherwise."""
        return self._reason

    @property
    def admitted(self) -> bool:
        """Whether the worker's card passed every rule."""
        return self._admitted

    @property
    def has_invalid_card(self) -> bool:
        """Whether the worker answers probes, but not with a valid card."""
        return self._has_invalid_card

    @property
    def draining(self) -> bool:
        """Whether an operator took the worker out of the rotation."""
        return self._draining

    @property
    def takes_requests(self) -> bool:
        """Whether new requests may go to the worker, given a proven path."""
        return not (self._draining or (self._card is not None and self._card.leaving))

    @property
    def incarnation(self) -> str:
        """The random value of the worker's last known start; it stays while the worker is absent."""
        return self._incarnation

    def accept_card(self, card: WorkerCard, refusal: str) -> None:
        """Store a card that was read. `refusal` is the reason to refuse the worker; empty to admit it."""
        self._card, self._incarnation, self._has_invalid_card = card, card.incarnation, False
        self._admitted = not refusal
        self._reason = refusal or ("its process was told to end" if card.leaving else "")

    def drop_card(self, reason: str) -> None:
        """Become absent."""
        self._card, self._admitted, self._has_invalid_card, self._reason = None, False, False, reason

    def note_no_card(self, reason: str, *, invalid: bool) -> None:
        """Store why an absent worker has no card. `invalid`: it answered, and its answer is no valid card."""
        self._reason, self._has_invalid_card = reason, invalid

    def update_spec(self, spec: FleetWorker) -> None:
        """Replace the entry in the fleet file, with another `draining` for instance; name and pool stay."""
        assert (spec.name, spec.pool) == (self.name, self._spec.pool), "such a change makes another worker"
        self._spec, self._draining = spec, spec.draining

    def drain(self) -> None:
        """Take no more new requests."""
        self._draining = True

    # --- loss -------------------------------------------------------------------------------------------------------

    def add_loss_callback(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called with a reason once the worker's process is gone; each request in flight adds one."""
        self._loss_callbacks.add(callback)

    def remove_loss_callback(self, callback: Callable[[str], None]) -> None:
        """Undo `add_loss_callback`."""
        self._loss_callbacks.discard(callback)

    def report_loss(self, reason: str) -> None:
        """Call every loss callback."""
        for callback in tuple(self._loss_callbacks):
            callback(reason)

    # --- selection and progress -------------------------------------------------------------------------------------

    @property
    def last_pick(self) -> int:
        """The running number of the last selection of this worker; 0 before the first."""
        return self._last_pick

    def note_pick(self, number: int) -> None:
        """Store the running number of a selection of this worker."""
        self._last_pick = number

    @property
    def last_progress(self) -> float:
        """Clock time of the last progress, a good answer or a new batch; minus infinity before the first."""
        return self._last_progress

    def note_progress(self, now: float) -> None:
        """Store the clock time of a good answer or of a new batch."""
        self._last_progress = now
