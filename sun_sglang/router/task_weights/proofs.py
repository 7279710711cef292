"""Which weights of tasks are proven on which prefill workers. State; no I/O.

A proof belongs to one start of a worker and to the weights of a task: the worker was given the weights, and a canary
showed their effect. It is void once the worker has another incarnation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from sun_sglang.contracts.module import TaskWeights


class WeightsProofs:
    """Proofs by worker and weights."""

    def __init__(self) -> None:
        self._proven: dict[str, tuple[str, set[TaskWeights]]] = {}
        self._changes: Counter[TaskWeights] = Counter()

    def is_proven(self, worker: str, incarnation: str, weights: TaskWeights) -> bool:
        """Return whether weights are proven on this start of a worker."""
        start, proven = self._proven.get(worker, ("", ()))
        return start == incarnation and weights in proven

    def changes(self, weights: TaskWeights) -> int:
        """Return a number that grows with every proof of these weights, and with every revocation."""
        return self._changes[weights]

    def prove(self, worker: str, incarnation: str, weights: TaskWeights) -> None:
        """Store that weights are in effect on this start of a worker."""
        start, proven = self._proven.get(worker, ("", set()))
        if start != incarnation:
            proven = set()
        proven.add(weights)
        self._proven[worker] = incarnation, proven
        self._changes[weights] += 1

    def revoke(self, worker: str, name: str) -> bool:
        """Forget the proofs of all weights with this name on a worker. Return False if there is none."""
        _, proven = self._proven.get(worker, ("", set()))
        revoked = {weights for weights in proven if weights.name == name}
        proven -= revoked
        self._changes.update(revoked)
        return bool(revoked)

    def forget(self, worker: str) -> None:
        """Forget a worker that has left."""
        _, proven = self._proven.pop(worker, ("", set()))
        self._changes.update(proven)

    def keep(self, needed: Mapping[str, Collection[TaskWeights]]) -> None:
        """Forget the proofs of all weights that a worker does not need: it will be told to drop them.

        Args:
            needed: the weights that each worker needs. Another worker of another pool may need some that this does not.
        """
        for worker, (_, proven) in self._proven.items():
            proven.intersection_update(needed.get(worker, ()))
        anywhere = set().union(*needed.values())
        for weights in [weights for weights in self._changes if weights not in anywhere]:
            del self._changes[weights]
