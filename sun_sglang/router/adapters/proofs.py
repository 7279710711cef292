"""Which adapters are proven on which prefill workers. State; no I/O.

A proof belongs to one start of a worker and to one adapter: the adapter was loaded there, and a canary showed its
effect. It is void once the worker has another incarnation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from sun_sglang.contracts.adapter import AdapterRef


class AdapterProofs:
    """Proofs by worker and adapter."""

    def __init__(self) -> None:
        self._proven: dict[str, tuple[str, set[AdapterRef]]] = {}
        self._changes: Counter[AdapterRef] = Counter()

    def is_proven(self, worker: str, incarnation: str, adapter: AdapterRef) -> bool:
        """Return whether an adapter is proven on this start of a worker."""
        start, adapters = self._proven.get(worker, ("", ()))
        return start == incarnation and adapter in adapters

    def changes(self, adapter: AdapterRef) -> int:
        """Return a number that grows with every proof of an adapter, and with every revocation."""
        return self._changes[adapter]

    def prove(self, worker: str, incarnation: str, adapter: AdapterRef) -> None:
        """Store that an adapter is in effect on this start of a worker."""
        start, adapters = self._proven.get(worker, ("", set()))
        if start != incarnation:
            adapters = set()
        adapters.add(adapter)
        self._proven[worker] = incarnation, adapters
        self._changes[adapter] += 1

    def revoke(self, worker: str, name: str) -> bool:
        """Forget the proofs of every adapter with this name on a worker. Return False if there is none."""
        _, adapters = self._proven.get(worker, ("", set()))
        revoked = {adapter for adapter in adapters if adapter.name == name}
        adapters -= revoked
        self._changes.update(revoked)
        return bool(revoked)

    def forget(self, worker: str) -> None:
        """Forget a worker that has left."""
        _, adapters = self._proven.pop(worker, ("", set()))
        self._changes.update(adapters)

    def keep(self, needed: Mapping[str, Collection[AdapterRef]]) -> None:
        """Forget the proofs of all adapters that a worker does not need: it will unload them.

        Args:
            needed: the adapters that each worker needs. Another worker of another pool may need one that this does not.
        """
        for worker, (_, proven) in self._proven.items():
            proven.intersection_update(needed.get(worker, ()))
        adapters = set().union(*needed.values())
        for adapter in [adapter for adapter in self._changes if adapter not in adapters]:
            del self._changes[adapter]
