"""Which workers may serve, and over which (prefill, decode) paths. State and rules; no sockets, no clock.

A worker is *absent* until its card was read, then *refused* for a reason, or *registering* until one of its paths has
carried a canary, then *ready*. A broken connection makes it absent again. A card that is not valid is refused unread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from sun_sglang.contracts.fleet_file import Fleet, FleetWorker
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.deadlines import DEFAULT, Deadlines
from sun_sglang.router.protocol.prompt_length import PromptLimits
from sun_sglang.router.workers.pairing import Party, decoder_objection, objection
from sun_sglang.router.workers.paths import Pair, Path
from sun_sglang.router.workers.worker import State, Worker
from sun_sglang.topology import Task


class Registry:
    """All workers of a fleet and the paths between them; `Rollout` is how the fleet changes.

    Attributes:
        fleet: what is served now.
        wanted: what is to be served once what is new in it has been proven and what is not in it has ended.
        task_names: of the tasks served now.
        workers: by name.
        on_ejected: called with the name of a worker that left the rotation.
        on_revoked: called when paths have to be proven again.
        on_proven: called when a path was proven.
        on_progress: called when what a change of the fleet waits for may have come about.
        on_added: called with a worker that came while the router runs.
    """

    def __init__(self, fleet: Fleet, deadlines: Deadlines = DEFAULT) -> None:
        self.fleet = fleet
        self._deadlines = deadlines
        self.wanted = fleet
        self.task_names = tuple(fleet.tasks)
        self.workers: dict[str, Worker] = {}
        self._proven: dict[Path, tuple[str, str]] = {}
        self._usable: dict[str, tuple[Pair, ...]] = dict.fromkeys(fleet.tasks, ())
        self._limits: dict[str, PromptLimits] = {}
        self._picks = itertools.count(1)
        self.on_ejected: list[Callable[[str], None]] = []
        self.on_revoked: list[Callable[[], None]] = []
        self.on_proven: list[Callable[[], None]] = []
        self.on_progress: list[Callable[[], None]] = []
        self.on_added: list[Callable[[Worker], None]] = []
        for spec in fleet.workers:
            self.add(spec)

    # --- what happens to workers -------------------------------------------------------------------------------

    def admit(self, name: str, card: WorkerCard) -> str:
        """A worker's card was read. Returns the reason for refusing it, or an empty string.

        A new incarnation is a new worker: its old paths are gone and its requests in flight are lost.
        """
        worker = self.workers[name]
        if worker.incarnation and worker.incarnation != card.incarnation:
            self.eject(name, "the worker restarted", gone=True)
        worker.card, worker.incarnation, worker.refused = card, card.incarnation, False
        worker.reason = self._objection(worker, card)
        worker.admitted = not worker.reason
        if not worker.admitted:
            self._drop_paths(name)
        elif card.leaving:
            worker.reason = "it was told to end"
            self.refresh()
        return "" if worker.admitted else worker.reason

    def eject(self, name: str, reason: str, *, gone: bool) -> None:
        """A worker leaves the rotation until its card and a canary pass.

        Args:
            name: which.
            reason: why, for humans.
            gone: the process is dead, replaced or unreachable, so that its requests in flight are lost. Otherwise (one
                connection broke, one answer was late) they may still end well on connections of their own.
        """
        worker = self.workers[name]
        worker.card, worker.admitted, worker.reason, worker.refused = None, False, reason, False
        self._drop_paths(name)
        if gone:
            for callback in tuple(worker.on_lost):
                callback(reason)
        for listener in self.on_ejected:
            listener(name)

    def note_missing(self, name: str, reason: str, *, refused: bool) -> None:
        """Record why a worker without a card has none.

        Args:
            name: which worker.
            reason: why, for humans.
            refused: it answers, and its answer is no valid card.
        """
        worker = self.workers[name]
        worker.reason, worker.refused = reason, refused

    def revoke(self, prefill: str, decode: str) -> None:
        """Take the paths between two workers, and no others, out of the rotation until a canary passes."""
        gone = [path for path in self._proven if path[1:] == (prefill, decode)]
        for path in gone:
            del self._proven[path]
        if gone:
            self.refresh()
            for listener in self.on_revoked:
                listener()

    def add(self, spec: FleetWorker) -> Worker:
        """A worker that has not been seen yet."""
        role = self.wanted.pools[spec.pool].role
        worker = Worker(spec, role, draining=spec.draining, deadlines=self._deadlines)
        self.workers[spec.name] = worker
        return worker

    def remove(self, name: str, reason: str) -> None:
        """Forget a worker now; requests that it still has are lost."""
        self.eject(name, reason, gone=True)
        self.workers.pop(name).unshare()

    def prove(self, path: Path, incarnations: tuple[str, str]) -> bool:
        """A canary went through. False if one of the two workers changed while it was under way."""
        if self.incarnations(path) != incarnations:
            return False
        self._proven[path] = incarnations
        self.refresh()
        self.progress()
        for listener in self.on_proven:
            listener()
        return True

    def progress(self) -> None:
        """A worker was looked at, or a path was proven."""
        for listener in self.on_progress:
            listener()

    def serve(self, fleet: Fleet) -> None:
        """Serve this fleet from now on; its workers are those that are here."""
        self.fleet = fleet
        self.task_names = tuple(fleet.tasks)

    def pick(self, worker: Worker) -> None:
        """Note that a worker was chosen; ties go to the one chosen longest ago."""
        worker.picked = next(self._picks)

    # --- what can be asked --------------------------------------------------------------------------------------

    def usable(self, task: str) -> tuple[Pair, ...]:
        """The proven pairs that may serve a task now."""
        return self._usable.get(task, ())

    def limit(self, task: str) -> PromptLimits | None:
        """What each usable pair of a task takes.

        While there is no such pair it is what the last ones took; None where there never was one.
        """
        return self._limits.get(task)

    def unproven(self) -> list[Path]:
        """Paths between admitted workers that still need a canary."""
        return [p for p in self._paths() if p not in self._proven and self.incarnations(p) is not None]

    def obstacle(self, path: Path) -> str:
        """Return why a path between admitted workers may not carry a request; empty if it may.

        A worker is compared with its peers when it is admitted, and with those of other pools when a task begins to
        use both.
        """
        prefill, decode = self.workers[path.prefill].party, self.workers[path.decode].party
        if prefill is None or decode is None:
            return ""
        tasks = [f.tasks[path.task] for f in (self.fleet, self.wanted) if path.task in f.tasks]
        unfit = "" if any(self._fits(path, task) for task in tasks) else decoder_objection(prefill, decode)
        return objection(prefill, decode) or unfit

    def is_proven(self, name: str, task: Task) -> bool:
        """Whether a canary went through the pools of a task as it is given here."""
        return any(p.task == name and self._fits(p, task) and self._takes_requests(p) for p in self._proven)

    def _fits(self, path: Path, task: Task) -> bool:
        prefill, decode = self.workers[path.prefill], self.workers[path.decode]
        if (prefill.spec.pool, decode.spec.pool) != (task.prefill, task.decode):
            return False
        if task.any_decoder or prefill.party is None or decode.party is None:
            return True
        return not decoder_objection(prefill.party, decode.party)

    def _takes_requests(self, path: Path) -> bool:
        return self.workers[path.prefill].takes_requests and self.workers[path.decode].takes_requests

    def incarnations(self, path: Path) -> tuple[str, str] | None:
        """Incarnations of a path's two workers; None unless both are admitted."""
        prefill, decode = self.workers.get(path.prefill), self.workers.get(path.decode)
        if prefill is None or decode is None or not (prefill.admitted and decode.admitted):
            return None
        assert prefill.card is not None, "an admitted worker has a card"
        assert decode.card is not None, "an admitted worker has a card"
        return prefill.card.incarnation, decode.card.incarnation

    def state(self, name: str) -> State:
        """Where a worker stands."""
        worker = self.workers[name]
        if worker.card is None:
            return State.REFUSED if worker.refused else State.ABSENT
        if not worker.admitted:
            return State.REFUSED
        if not worker.takes_requests:
            return State.DRAINING
        return State.READY if any(name in p[1:] for p in self._proven) else State.REGISTERING

    def members(self, pool: str) -> list[Worker]:
        """The workers of a pool, in fleet order."""
        return [w for w in self.workers.values() if w.spec.pool == pool]

    def unserved(self) -> list[str]:
        """Tasks without any proven path."""
        return [task for task, pairs in self._usable.items() if not pairs]

    def paths(self, task: str) -> list[Path]:
        """A task's proven paths."""
        pools = self.fleet.tasks[task]
        return [p for p in self._proven if p.task == task and self._fits(p, pools) and self._takes_requests(p)]

    # --- rules ----------------------------------------------------------------------------------------------------

    def _objection(self, worker: Worker, card: WorkerCard) -> str:
        if card.role != worker.role:
            return f"it is a {card.role} worker, and pool `{worker.spec.pool}` is a {worker.role} pool"
        if card.role == "prefill" and card.bootstrap_port is None:
            return "a prefill worker has to announce its bootstrap port"
        for hook in card.patches:
            if hook.state != "applied":
                detail = f": {hook.detail}" if hook.detail else ""
                return f"hook `{hook.name}` on {hook.target} is {hook.state}{detail}"
        for peer in self._comparable(worker):
            assert peer.party is not None, "only admitted workers are compared"
            if found := objection(Party(worker.name, worker.spec.pool, card), peer.party):
                return found
        return ""

    def _comparable(self, worker: Worker) -> Iterable[Worker]:
        pools = {worker.spec.pool}
        for task in (*self.fleet.tasks.values(), *self.wanted.tasks.values()):
            if worker.spec.pool in (task.prefill, task.decode):
                pools |= {task.prefill, task.decode}
        return [w for w in self.workers.values() if w is not worker and w.admitted and w.spec.pool in pools]

    def _paths(self) -> Iterable[Path]:
        pairs = {(n, t.prefill, t.decode) for f in (self.fleet, self.wanted) for n, t in f.tasks.items()}
        for name, prefills, decodes in sorted(pairs):
            for prefill in self.members(prefills):
                for decode in self.members(decodes):
                    if prefill.takes_requests and decode.takes_requests:
                        yield Path(name, prefill.name, decode.name)

    def _drop_paths(self, name: str) -> None:
        gone = [p for p in self._proven if name in p[1:]]
        for path in gone:
            del self._proven[path]
        if gone:
            self.refresh()

    def refresh(self) -> None:
        """Find out anew what may serve: after a change of the fleet, of a worker's part in it, or of what is proven."""
        usable: dict[str, list[Pair]] = {task: [] for task in self.fleet.tasks}
        for name in usable:
            for path in self.paths(name):
                usable[name].append(Pair(self.workers[path.prefill], self.workers[path.decode]))
        self._usable = {task: tuple(pairs) for task, pairs in usable.items()}
        # a task whose workers restart has the same limits before and after, and requests come meanwhile
        kept = {task: limit for task, limit in self._limits.items() if task in usable}
        self._limits = kept | {task: _limit(pairs) for task, pairs in usable.items() if pairs}


def _limit(pairs: Iterable[Pair]) -> PromptLimits:
    cards = [worker.card for pair in pairs for worker in pair if worker.card is not None]
    # SGLang refuses a prompt that fills the context (managers/tokenizer_manager.py: _validate_one_request)
    tokens = min(min(c.max_input_tokens, c.context_length - 1, c.kv_tokens) for c in cards)
    covered = [c.token_bytes for c in cards if c.token_bytes is not None]
    token_bytes = max(covered) if len(covered) == len(cards) else None
    return PromptLimits(tokens, min(c.identity.vocab_size for c in cards), token_bytes)
