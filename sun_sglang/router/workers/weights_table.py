"""The own weights of tasks: on which prefill workers they are needed and in effect, and which paths may serve them.

State; no I/O. `health/task_weights/` gives the weights to workers, proves them, and reports here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.task_weights.limits import weights_fault
from sun_sglang.router.task_weights.proofs import WeightsProofs
from sun_sglang.router.workers.task_paths import Needs, TaskPath, TaskUse
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair, PathTable, PoolPaths

_NONE: Needs = MappingProxyType({})


class WeightsObstacle(NamedTuple):
    """A prefill worker that takes requests and cannot serve the weights of a task now.

    Attributes:
        worker: name of the worker.
        refusal: why the worker cannot have the weights, by its card; empty if only a proof is missing.
    """

    worker: str
    refusal: str


class _Found(NamedTuple):
    base: PoolPaths
    changes: int
    paths: PoolPaths


class WeightsTable:
    """The weights of tasks that prefill workers need and have.

    Args:
        workers: all workers by name.
        members: returns the workers of a pool.
        paths: the paths between two pools.

    Attributes:
        on_needed: called when a prefill worker may need more weights, or less.
        on_proven: called when weights were proven on a worker.
        on_revoked: called with the name of a worker and the weights that it reported as missing.
    """

    def __init__(
        self, workers: Mapping[str, Worker], members: Callable[[str], Sequence[Worker]], paths: PathTable
    ) -> None:
        self._workers = workers
        self._members = members
        self._paths = paths
        self._proofs = WeightsProofs()
        self._needed: Mapping[str, Needs] = {}
        self._found: dict[TaskPath, _Found] = {}
        self.on_needed: list[Callable[[], None]] = []
        self.on_proven: list[Callable[[], None]] = []
        self.on_revoked: list[Callable[[str, TaskWeights], None]] = []

    # --- events -----------------------------------------------------------------------------------------------------

    def use(self, use: TaskUse) -> None:
        """Replace the weights that tasks need. Proofs and paths of all others are forgotten, those of each pool."""
        self._needed = use.weights
        self._found = {path: self._found[path] for path in use.paths if path in self._found}
        self._proofs.keep({name: self.needed(worker.spec.pool) for name, worker in self._workers.items()})
        self.report_needed()

    def prove(self, name: str, incarnation: str, weights: TaskWeights) -> bool:
        """Store that a canary showed the effect of weights on a worker. Return False if the worker has changed since.

        Args:
            name: name of the worker.
            incarnation: of the worker when the canary was sent.
            weights: the weights.
        """
        worker = self._workers.get(name)
        if worker is None or not worker.admitted or worker.incarnation != incarnation:
            return False
        self._proofs.prove(name, incarnation, weights)
        for listener in self.on_proven:
            listener()
        return True

    def revoke(self, name: str, incarnation: str, weights: TaskWeights) -> None:
        """Send a worker no request for weights until it was given them again, and they are proven.

        Args:
            name: name of the worker, which reported that it does not have the weights.
            incarnation: of the worker when the request was sent. Ignored if it has changed since.
            weights: the weights.
        """
        worker = self._workers.get(name)
        if worker is not None and worker.incarnation == incarnation and self._proofs.revoke(name, weights.name):
            for listener in self.on_revoked:
                listener(name, weights)
            self.report_needed()

    def forget(self, name: str) -> None:
        """Forget a worker that has left."""
        self._proofs.forget(name)

    def report_needed(self) -> None:
        """Call the listeners of `on_needed`."""
        for listener in self.on_needed:
            listener()

    # --- questions --------------------------------------------------------------------------------------------------

    def needed(self, pool: str) -> Needs:
        """Return the weights that each worker of a prefill pool needs, with the pairs of pools of their tasks.

        The object is another one after each change of the tasks.
        """
        return self._needed.get(pool, _NONE)

    def is_proven(self, worker: Worker, weights: TaskWeights) -> bool:
        """Return whether weights are in effect on this start of a worker."""
        return self._proofs.is_proven(worker.name, worker.incarnation, weights)

    def obstacles(self, pool: str, weights: TaskWeights) -> Iterator[WeightsObstacle]:
        """Yield the workers of a prefill pool that take requests and cannot serve weights now."""
        for worker in self._members(pool):
            if not (worker.admitted and worker.takes_requests):
                continue
            assert worker.card is not None, "an admitted worker has a card"
            refusal = weights_fault(worker.card, weights)
            if refusal or not self.is_proven(worker, weights):
                yield WeightsObstacle(worker.name, refusal)

    def pairs(self, worker: Worker, weights: TaskWeights) -> Sequence[Pair]:
        """Return the proven pairs of a prefill worker over which tasks will use weights, once proven there."""
        found = (self._paths.between(pools).usable for pools in self.needed(worker.spec.pool).get(weights, ()))
        return [Pair(worker, pair.decode, weights) for pairs in found for pair in pairs if pair.prefill is worker]

    def between(self, path: TaskPath) -> PoolPaths:
        """Return the paths of a task. A result counts until those of its pools or the proofs of its weights change."""
        base, weights = self._paths.between(path.pools), path.weights
        if weights is None:
            return base
        found, changes = self._found.get(path), self._proofs.changes(weights)
        if found is None or found.base is not base or found.changes != changes:
            usable = tuple(Pair(p.prefill, p.decode, weights) for p in base.usable if self._serves(p.prefill, weights))
            found = self._found[path] = _Found(base, changes, base._replace(usable=usable))
        return found.paths

    def _serves(self, worker: Worker, weights: TaskWeights) -> bool:
        if not self.is_proven(worker, weights):
            return False
        assert worker.card is not None, "a proven path has two cards"
        return not weights_fault(worker.card, weights)
