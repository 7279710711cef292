"""The slots of a worker that serves LoRA adapters: the adapters that one batch can use, with LRU eviction. Pure.

After SGLang's `lora/mem_pool.py` and `lora/eviction_policy.py`: a loaded adapter is in host memory, and a batch that
uses it needs its weights in a slot. Requests without an adapter need one slot together, which is evicted last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Set
from types import MappingProxyType
from typing import NamedTuple


class ColdLoads(NamedTuple):
    """The copies of one adapter into a slot since the worker's start.

    Attributes:
        loads: number of copies.
        seconds: time that they took.
    """

    loads: int
    seconds: float


class AdapterSlots:
    """The slots of one worker. An adapter is named by any string; None stands for requests without an adapter.

    Args:
        count: number of slots (`max_loras_per_batch`).
    """

    def __init__(self, count: int) -> None:
        assert count > 0
        self.count = count
        self._resident: OrderedDict[str | None, None] = OrderedDict({None: None})
        self._cold: dict[str, ColdLoads] = {}

    @property
    def resident(self) -> tuple[str, ...]:
        """The adapters in slots, the least recently used first."""
        return tuple(name for name in self._resident if name is not None)

    @property
    def cold(self) -> Mapping[str, ColdLoads]:
        """The copies into slots by adapter, those of unloaded ones too."""
        return MappingProxyType(self._cold)

    def fit(self, names: Set[str | None]) -> bool:
        """Return whether one batch can use all of these adapters."""
        return len(names) <= self.count

    def use(self, names: Set[str | None], seconds: float) -> float:
        """Copy the adapters of a batch into slots where they are not in one, and return the time that this takes.

        Args:
            names: the batch's adapters.
            seconds: time of one copy.
        """
        assert self.fit(names)
        ordered = sorted(names, key=lambda name: (name is not None, name or ""))
        for name in ordered:
            if name in self._resident:
                self._resident.move_to_end(name)
        total = 0.0
        for name in ordered:
            if name in self._resident:
                continue
            if len(self._resident) == self.count:
                self._evict(names)
            self._resident[name] = None
            if name is not None:
                before = self._cold.get(name, ColdLoads(0, 0.0))
                self._cold[name] = ColdLoads(before.loads + 1, before.seconds + seconds)
                total += seconds
        return total

    def remove(self, name: str) -> None:
        """Free the slot of an adapter that is unloaded; its copies still count."""
        self._resident.pop(name, None)

    def clear(self) -> None:
        """Free the slot of every adapter."""
        for name in self.resident:
            self.remove(name)

    def _evict(self, needed: Set[str | None]) -> None:
        """Free the slot of the least recently used adapter; that of requests without one if no other can be freed."""
        victim = next((name for name in self._resident if name is not None and name not in needed), None)
        del self._resident[victim]
