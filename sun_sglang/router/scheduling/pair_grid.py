"""All pairs of some prefill and decode workers, without a list of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.scheduling.ranked_workers import RankedWorkers
from sun_sglang.router.workers.worker_paths import Pair


class PairGrid(Sequence[Pair]):
    """The pairs of a task between two pools in which every path is proven; the first prefill worker's come first.

    Args:
        prefills: the prefill workers.
        decodes: the decode workers.
        weights: the task's own weights; None without any.
    """

    def __init__(self, prefills: RankedWorkers, decodes: RankedWorkers, weights: TaskWeights | None = None) -> None:
        self.prefills = prefills
        self.decodes = decodes
        self.weights = weights

    def __len__(self) -> int:
        return len(self.prefills) * len(self.decodes)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        prefill, decode = divmod(range(len(self))[index], len(self.decodes))
        return Pair(self.prefills[prefill], self.decodes[decode], self.weights)

    def __iter__(self) -> Iterator[Pair]:
        return (Pair(prefill, decode, self.weights) for prefill in self.prefills for decode in self.decodes)
