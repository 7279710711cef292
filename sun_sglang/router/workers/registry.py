"""The registry: every worker of a fleet, and the pairs that may serve each task. State and rules; no sockets, no clock.

A worker is *absent* until its card is read. Its card makes it *refused*, with a reason, or *registering*; it is *ready*
once a canary has proven one of its paths. A broken connection makes it absent again. An answer that is no valid card
makes it refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from sun_sglang.contracts.fleet_file import Fleet, FleetTask, FleetWorker
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.deadlines import DEFAULT, Deadlines
from sun_sglang.router.protocol.prompt_length import PromptLimits
from sun_sglang.router.task_names import TaskNames
from sun_sglang.router.workers.compatibility import NamedCard, admission_fault
from sun_sglang.router.workers.task_paths import TaskPaths, TaskUse, keep_equal
from sun_sglang.router.workers.weights_table import WeightsTable
from sun_sglang.router.workers.worker import State, Worker
from sun_sglang.router.workers.worker_paths import (
    Pair,
    PathTable,
    PoolPair,
    PoolPaths,
    Starts,
    UnusablePath,
    WorkerPath,
)


class Registry:
    """The workers of a fleet and the paths between them. `Rollout` replaces the fleet in steps.

    Attributes:
        fleet: the fleet that is served now.
        wanted: the fleet to serve once its new workers are proven and the requests of its old ones have ended.
        leaving: tasks that were removed while they had requests; these requests are still served.
        task_names: the tasks that are served now.
        weights: the own weights of tasks that prefill workers need and have.
        workers: all workers by name.
        on_ejected: called with the name of a worker that left the rotation.
        on_unproven: called when a path may need a canary.
        on_proven: called with a path that was proven.
        on_usable: called when a task may have got a usable pair: by a proof, another fleet or a changed worker.
        on_progress: called after each probe, and when a step of a rollout may have become possible.
        on_added: called with a worker that was added while the router runs.
    """

    def __init__(self, fleet: Fleet, deadlines: Deadlines = DEFAULT) -> None:
        self._deadlines = deadlines
        self.workers: dict[str, Worker] = {}
        self._members: dict[str, dict[str, Worker]] = {}
        self._paths = PathTable(self.workers, self.members)
        self.weights = WeightsTable(self.workers, self.members, self._paths)
        self.weights.on_proven += [self.progress, self._report_usable]
        self._picks = itertools.count(1)
        self.on_ejected: list[Callable[[str], None]] = []
        self.on_unproven: list[Callable[[], None]] = []
        self.on_proven: list[Callable[[WorkerPath], None]] = []
        self.on_usable: list[Callable[[], None]] = []
        self.on_progress: list[Callable[[], None]] = []
        self.on_added: list[Callable[[Worker], None]] = []
        self.leaving: Mapping[str, FleetTask] = {}
        self._trials: list[FleetTask] = []
        self._task_paths = TaskPaths()
        self._use: TaskUse | None = None
        self.fleet = self.wanted = fleet
        self._note_tasks()
        for spec in fleet.workers:
            self.add(spec)

    # --- events of workers ------------------------------------------------------------------------------------------

    def admit(self, name: str, card: WorkerCard) -> str:
        """Admit or refuse a worker by a card that was read.

        A new incarnation is a new worker: its proofs are void and its requests in flight are lost.

        Returns:
            The reason for refusing the worker, or an empty string.
        """
        worker = self.workers[name]
        if worker.incarnation and worker.incarnation != card.incarnation:
            self.eject(name, "the worker restarted", gone=True)
        if worker.card is not None and worker.card.module != card.module:
            # its weights were updated: the effects of tasks' weights were measured on the earlier ones
            self.weights.forget(name)
        was_admitted = worker.admitted
        refusal = self._refusal(worker, card)
        worker.accept_card(card, refusal)
        if refusal:
            if was_admitted:
                self._paths.revoke_all(worker)
            return refusal
        self._paths.invalidate(worker)
        self._report_unproven()
        self.weights.report_needed()
        self._report_usable()
        return ""

    def eject(self, name: str, reason: str, *, gone: bool) -> None:
        """Take a worker out of the rotation until its card and a canary pass.

        Args:
            name: name of the worker.
            reason: a sentence for people.
            gone: the process is dead, replaced or unreachable, so that its requests in flight are lost. Otherwise (one
                connection broke, one answer was late) they may still end well on connections of their own.
        """
        worker = self.workers[name]
        worker.drop_card(reason)
        self._paths.revoke_all(worker)
        if gone:
            worker.report_loss(reason)
        for listener in self.on_ejected:
            listener(name)

    def revoke(self, path: WorkerPath) -> None:
        """Take one path out of the rotation until a canary passes; other paths of its workers stay proven."""
        if self._paths.revoke(path):
            self._report_unproven()

    def prove(self, path: WorkerPath, starts: Starts) -> bool:
        """Store that a canary passed over a path. Return False if a worker has changed since it was sent.

        Args:
            path: the two workers.
            starts: the incarnations of both when the canary was sent.
        """
        if not self._paths.prove(path, starts):
            return False
        self.progress()
        for listener in self.on_proven:
            listener(path)
        self.weights.report_needed()
        self._report_usable()
        return True

    def progress(self) -> None:
        """Report that a step of a rollout may have become possible."""
        for listener in self.on_progress:
            listener()

    def pick(self, worker: Worker) -> None:
        """Number a selection of a worker; policies break ties in favour of the least recent one."""
        worker.note_pick(next(self._picks))

    # --- changes of the fleet ---------------------------------------------------------------------------------------

    def want(self, fleet: Fleet) -> None:
        """Set the fleet to serve in the end. Canaries go over its paths from now on."""
        self.wanted = keep_equal(fleet, self.wanted)
        self._note_tasks()
        self._report_unproven()

    def serve(self, fleet: Fleet, leaving: Mapping[str, FleetTask] | None = None) -> None:
        """Replace the fleet that is served; the workers stay those of `workers`.

        Args:
            fleet: the fleet.
            leaving: tasks that get no new requests, and whose requests are still served.
        """
        self.fleet = fleet
        self.leaving = leaving or {}
        self._note_tasks()
        self._report_usable()

    def begin_trial(self, task: FleetTask) -> None:
        """Prove the paths and the weights of a task that is not in the fleet, until `end_trial`."""
        self._trials.append(task)
        self._note_tasks()
        self._report_unproven()

    def end_trial(self, task: FleetTask) -> None:
        """End what `begin_trial` began. What no other task needs is forgotten."""
        self._trials.remove(task)
        self._note_tasks()

    def add(self, spec: FleetWorker) -> Worker:
        """Add a worker, which is absent."""
        worker = Worker(spec, self.wanted.pools[spec.pool].role, self._deadlines)
        self.workers[spec.name] = worker
        self._members.setdefault(spec.pool, {})[spec.name] = worker
        return worker

    def announce(self, worker: Worker) -> None:
        """Call the listeners of `on_added` with a worker that was added while the router runs."""
        for listener in self.on_added:
            listener(worker)

    def update(self, spec: FleetWorker) -> None:
        """Replace a worker's entry in the fleet file; its address stays."""
        worker = self.workers[spec.name]
        worker.update_spec(spec)
        self._paths.invalidate(worker)
        self.weights.report_needed()
        self._report_usable()

    def drain(self, name: str) -> None:
        """Send no more new requests to a worker."""
        worker = self.workers[name]
        if not worker.draining:
            worker.drain()
            self._paths.invalidate(worker)

    def remove(self, name: str, reason: str) -> None:
        """Remove a worker now; requests that are still on it are lost."""
        self.eject(name, reason, gone=True)
        worker = self.workers.pop(name)
        del self._members[worker.spec.pool][name]
        self._paths.forget(worker)
        self.weights.forget(name)
        worker.load.unshare()

    # --- questions --------------------------------------------------------------------------------------------------

    def usable(self, task: str) -> tuple[Pair, ...]:
        """Return the proven pairs that may serve a task now."""
        path = self._by_task.get(task)
        return () if path is None else self.weights.between(path).usable

    def limit(self, task: str) -> PromptLimits | None:
        """Return the limit of a task's usable pairs.

        While no pair is usable, the limit of the last usable ones counts: a task whose workers restart has the same
        limits before and after, and requests arrive meanwhile. None if there never was a usable pair.
        """
        path = self._by_task.get(task)
        return None if path is None else self.weights.between(path).limit

    def unproven(self) -> tuple[WorkerPath, ...]:
        """Return the paths that need a canary, for the tasks served now and for those of `wanted`."""
        return tuple(dict.fromkeys(path for pools in self._pools() for path in self._paths.between(pools).unproven))

    def unusable(self, task: str) -> tuple[UnusablePath, ...]:
        """Return the paths between a task's pools, those of a move under way included, that carry no requests."""
        pools = sorted({PoolPair.of(settings) for settings in self.settings(task)}, key=PoolPair.sort_key)
        return tuple(one for pair in pools for one in self._paths.between(pair).unusable)

    def settings(self, task: str) -> Iterator[FleetTask]:
        """Yield a task as it is served now, and as it is wanted; nothing for an unknown task."""
        served, wanted = self.fleet.tasks.get(task), self.wanted.tasks.get(task)
        return (one for one in ((served,) if served is wanted else (served, wanted)) if one is not None)

    def paths(self, task: FleetTask) -> PoolPaths:
        """Return the paths that may serve a task with these pools, these rules and these weights."""
        return self.weights.between(self._task_paths.path(task))

    def can_serve(self, task: FleetTask) -> bool:
        """Return whether a proven pair may serve a task with these pools, these rules and these weights."""
        return bool(self.paths(task).usable)

    def starts(self, path: WorkerPath) -> Starts | None:
        """Return the incarnations of a path's workers; None unless both workers are admitted."""
        return self._paths.starts(path)

    def state(self, name: str) -> State:
        """Return the state of a worker."""
        worker = self.workers[name]
        if worker.card is None:
            return State.REFUSED if worker.has_invalid_card else State.ABSENT
        if not worker.admitted:
            return State.REFUSED
        if not worker.takes_requests:
            return State.DRAINING
        return State.READY if self._paths.has_proven(name) else State.REGISTERING

    def members(self, pool: str) -> Sequence[Worker]:
        """Return the workers of a pool, in the order in which they were added."""
        return tuple(self._members.get(pool, {}).values())

    def unserved(self) -> list[str]:
        """Return the tasks without a usable pair."""
        return [task for task in self.task_names if not self.usable(task)]

    # --- rules ------------------------------------------------------------------------------------------------------

    def _refusal(self, worker: Worker, card: WorkerCard) -> str:
        """Return why a card refuses its worker, by itself or beside the workers of every pool that tasks combine."""
        names = {worker.spec.pool}
        for pools in self._pools():
            if worker.spec.pool in (pools.prefill, pools.decode):
                names |= {pools.prefill, pools.decode}
        peers = (w for w in self.workers.values() if w is not worker and w.admitted and w.spec.pool in names)
        named = NamedCard(worker.name, worker.spec.pool, card)
        return admission_fault(named, worker.role, (w.named_card for w in peers if w.named_card is not None))

    def _report_usable(self) -> None:
        for listener in self.on_usable:
            listener()

    def _report_unproven(self) -> None:
        for listener in self.on_unproven:
            listener()

    def _note_tasks(self) -> None:
        """Derive from the tasks which pairs of pools they use, and which weights."""
        self.task_names = TaskNames(self.fleet.tasks)
        served = {**self.leaving, **self.fleet.tasks}
        self._by_task = {name: self._task_paths.path(task) for name, task in served.items()}
        # an admin waits for what a trial needs
        use = self._task_paths.use((*self._trials, *served.values(), *self.wanted.tasks.values()))
        if use is not self._use:
            self._use = use
            self._paths.keep(use.pools)
            self.weights.use(use)

    def _pools(self) -> tuple[PoolPair, ...]:
        assert self._use is not None, "set by `_note_tasks`"
        return self._use.pools
