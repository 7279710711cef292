"""One worker: its registration and its load in the router. State; no sockets, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.deadlines import DEFAULT, Deadlines
from sun_sglang.router.task_weights.resident_adapters import ResidentAdapters
from sun_sglang.router.task_weights.worker_modules import WorkerModules
from sun_sglang.router.workers.compatibility import NamedCard
from sun_sglang.router.workers.decode_steps import DecodeSteps
from sun_sglang.router.workers.worker_load import WorkerLoad


class State(StrEnum):
    """The state of a worker, as `/tasks` and `/metrics` show it."""

    ABSENT = "absent"
    REGISTERING = "registering"
    READY = "ready"
    DRAINING = "draining"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Worker:
    """A worker's registration, and its load.

    The dataclass is frozen, so no other class can write a field; each change has a method here. The registry calls
    those of the registration, since it also keeps the paths in step.

    Attributes:
        name: name in the fleet file.
        role: `prefill` or `decode`, from its pool.
        hash: hash of the name, equal in every process.
        load: requests and tokens on the worker.
        resident: the adapters in its slots.
        modules: the modules between which it changes.
        decode_steps: the decode steps that it measured.
        spec: its entry in the fleet file.
        card: the card that it served last; None while it is absent.
        named_card: the card with the names of worker and pool; None while the worker is absent.
        reason: why it is absent, refused or leaving; empty otherwise.
        admitted: whether its card passed every rule.
        has_invalid_card: whether it answers probes, but not with a valid card.
        draining: whether an operator took it out of the rotation.
        incarnation: the random value of its last known start; it stays while the worker is absent.
        last_pick: the running number of its last selection; 0 before the first.
        last_progress: clock time of its last progress, a good answer or a new batch; minus infinity before the first.
    """

    name: str
    role: str
    hash: int
    load: WorkerLoad
    resident: ResidentAdapters
    modules: WorkerModules
    decode_steps: DecodeSteps
    spec: FleetWorker
    card: WorkerCard | None
    named_card: NamedCard | None
    reason: str
    admitted: bool
    has_invalid_card: bool
    draining: bool
    incarnation: str
    last_pick: int
    last_progress: float
    _loss_callbacks: set[Callable[[str], None]] = field(repr=False)

    def __init__(self, spec: FleetWorker, role: str, deadlines: Deadlines = DEFAULT) -> None:
        key = int.from_bytes(hashlib.blake2b(spec.name.encode(), digest_size=8).digest(), "little")
        self._set(name=spec.name, role=role, hash=key, load=WorkerLoad(key, deadlines), _loss_callbacks=set())
        self._set(resident=ResidentAdapters(), modules=WorkerModules(), decode_steps=DecodeSteps())
        self._set(spec=spec, draining=spec.draining, incarnation="", last_pick=0, last_progress=float("-inf"))
        self.drop_card("it has not been probed yet")

    @property
    def takes_requests(self) -> bool:
        """Whether new requests may go to the worker, given a proven path."""
        return not (self.draining or (self.card is not None and self.card.leaving))

    @property
    def moving(self) -> bool:
        """Whether its answers go on elsewhere, where another worker can. The answers of a prefill worker end soon."""
        return self.spec.moving and self.role == "decode"

    # --- registration -----------------------------------------------------------------------------------------------

    def accept_card(self, card: WorkerCard, refusal: str) -> None:
        """Store a card that was read. `refusal` is the reason to refuse the worker; empty to admit it."""
        if card.incarnation != self.incarnation:
            self.resident.clear()
            self.modules.clear()
            self.decode_steps.clear()
        self._set(card=card, named_card=NamedCard(self.name, self.spec.pool, card), incarnation=card.incarnation)
        leaving = "its process received the signal to end" if card.leaving else ""
        self._set(admitted=not refusal, has_invalid_card=False, reason=refusal or leaving)

    def drop_card(self, reason: str) -> None:
        """Forget the card: the worker becomes absent."""
        self._set(card=None, named_card=None, admitted=False, has_invalid_card=False, reason=reason)

    def note_no_card(self, reason: str, *, invalid: bool) -> None:
        """Store why an absent worker has no card. `invalid`: it answered, and its answer is no valid card."""
        self._set(reason=reason, has_invalid_card=invalid)

    def update_spec(self, spec: FleetWorker) -> None:
        """Replace the entry in the fleet file, with another `draining` for instance; name and pool stay."""
        assert (spec.name, spec.pool) == (self.name, self.spec.pool), "such a change makes another worker"
        self._set(spec=spec, draining=spec.draining)

    def drain(self) -> None:
        """Take no more new requests."""
        self._set(draining=True)

    # --- loss -------------------------------------------------------------------------------------------------------

    def add_loss_callback(self, callback: Callable[[str], None]) -> None:
        """Add a function to call, with a reason, once the worker's process is gone; each request in flight adds one."""
        self._loss_callbacks.add(callback)

    def remove_loss_callback(self, callback: Callable[[str], None]) -> None:
        """Undo `add_loss_callback`."""
        self._loss_callbacks.discard(callback)

    def report_loss(self, reason: str) -> None:
        """Call every loss callback."""
        for callback in tuple(self._loss_callbacks):
            callback(reason)

    # --- selection and progress -------------------------------------------------------------------------------------

    def note_pick(self, number: int) -> None:
        """Store the running number of a selection of this worker."""
        object.__setattr__(self, "last_pick", number)

    def note_progress(self, now: float) -> None:
        """Store the clock time of a good answer or of a new batch."""
        object.__setattr__(self, "last_progress", now)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)
