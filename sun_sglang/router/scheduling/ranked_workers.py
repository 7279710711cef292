"""The least loaded of many workers, found without a look at each of them. State; no clock.

A pool of a thousand workers takes `min` a third of a millisecond for each request. A heap finds the same worker in
microseconds. Its entries are lower bounds: a load that grows leaves them as they are, and is looked up only once its
entry comes to the top. A load that falls adds an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeAlias, overload

from sun_sglang.router.workers.worker import Worker

# entries for each worker, after which a heap is made anew
_MOST_ENTRIES = 4

Rank: TypeAlias = tuple[int, int, int]
"""What workers are compared by; the smallest goes first."""


def by_tokens(worker: Worker) -> Rank:
    """Rank by outstanding tokens, then requests, then the time of the last selection."""
    requests, tokens = worker.load.totals
    return tokens, requests, worker.last_pick


def by_requests(worker: Worker) -> Rank:
    """Rank by outstanding requests, then tokens, then the time of the last selection."""
    return *worker.load.totals, worker.last_pick


class RankedWorkers(Sequence[Worker]):
    """Workers in a fixed order.

    The loads of workers must be this process's own: the changes by other router processes are not noticed.

    Args:
        workers: the workers, at least one.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = tuple(workers)
        self._heaps: dict[Callable[[Worker], Rank], _Heap] = {}

    def __len__(self) -> int:
        return len(self._workers)

    @overload
    def __getitem__(self, index: int) -> Worker: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Worker, ...]: ...
    def __getitem__(self, index: int | slice) -> Worker | tuple[Worker, ...]:
        return self._workers[index]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def least(self, rank: Callable[[Worker], Rank]) -> Worker:
        """Return the worker with the smallest rank, of equal ones the first: `min(self, key=rank)`."""
        heap = self._heaps.get(rank)
        if heap is None:
            heap = self._heaps[rank] = _Heap(self._workers, rank)
        return heap.least()

    def close(self) -> None:
        """End the notice of changes; the ranking must not be used any more."""
        for heap in self._heaps.values():
            heap.close()


class _Heap:
    """The workers of one ranking.

    Args:
        workers: the workers.
        rank: what they are compared by. Of a change of a worker, only the fall of its load may make it smaller.
    """

    def __init__(self, workers: Sequence[Worker], rank: Callable[[Worker], Rank]) -> None:
        self._workers = workers
        self._rank = rank
        self._entries = [(rank(worker), place) for place, worker in enumerate(workers)]
        # of a worker's entries, the smallest is the bound; the others are out of date
        self._bounds = [bound for bound, _ in self._entries]
        heapify(self._entries)
        self._callbacks = [partial(self._lower, place) for place in range(len(workers))]
        for worker, callback in zip(workers, self._callbacks, strict=True):
            assert not worker.load.is_shared, "the changes of other processes are not noticed"
            worker.load.add_lower_callback(callback)

    def close(self) -> None:
        for worker, callback in zip(self._workers, self._callbacks, strict=True):
            worker.load.remove_lower_callback(callback)

    def least(self) -> Worker:
        entries, bounds = self._entries, self._bounds
        while True:
            bound, place = entries[0]
            if bounds[place] != bound:
                heappop(entries)
                continue
            worker = self._workers[place]
            rank = self._rank(worker)
            if rank == bound:
                return worker
            bounds[place] = rank
            heapreplace(entries, (rank, place))

    def _lower(self, place: int) -> None:
        rank = self._rank(self._workers[place])
        if rank < self._bounds[place]:
            self._bounds[place] = rank
            heappush(self._entries, (rank, place))
            if len(self._entries) > _MOST_ENTRIES * len(self._workers):
                # entries that are out of date stay where they never come to the top
                self._entries = [(bound, place) for place, bound in enumerate(self._bounds)]
                heapify(self._entries)
