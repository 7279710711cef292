"""What the processes of one router have on each worker, in memory that all of them see.

Each process writes a row of its own and reads the others', so nothing is locked: a row is one generation, a count, and
for each worker its hash, requests, tokens, and the milliseconds of monotonic time until which it reads long prompts,
all 64-bit integers.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

MOST_WORKERS = 4096
_CELLS = 4
_ROW = 2 + _CELLS * MOST_WORKERS
_63_BITS = (1 << 63) - 1


class SharedLoads:
    """The table, as one process has it.

    Args:
        path: the file that holds it; made by whoever comes first.
        process: this process, from 0.
        processes: how many there are.
    """

    def __init__(self, path: Path, process: int, processes: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = processes * _ROW * 8
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._cells = memoryview(self._map).cast("q")
        self._rows = [self._cells[i * _ROW : (i + 1) * _ROW] for i in range(processes)]
        self._own = self._rows[process]
        self._others = [_Other(row) for i, row in enumerate(self._rows) if i != process]
        # what an earlier process left in this row has ended with it
        self._own[1] = 0
        self._own[0] = int.from_bytes(os.urandom(8), "little") & _63_BITS

    def slot(self, worker: int) -> memoryview:
        """This process's cells of a worker, by the worker's hash: requests, tokens and the end of reading, all 0."""
        count = self._own[1]
        for i in range(count):
            if self._own[2 + _CELLS * i] == _key(worker):
                break
        else:
            i = count
            assert i < MOST_WORKERS, "a router has fewer workers"
        at = 2 + _CELLS * i
        self._own[at] = _key(worker)
        for cell in range(1, _CELLS):
            self._own[at + cell] = 0
        self._own[1] = max(count, i + 1)
        return self._own[at + 1 : at + _CELLS]

    def elsewhere(self, worker: int) -> tuple[int, int]:
        """Requests and tokens that the other processes have on a worker."""
        requests = tokens = 0
        for other in self._others:
            at = other.find(_key(worker))
            if at:
                requests += other.row[at]
                tokens += other.row[at + 1]
        return requests, tokens

    def reading_until(self, worker: int) -> float:
        """Return the monotonic time in seconds until which a worker reads long prompts of the other processes."""
        places = ((other.row, other.find(_key(worker))) for other in self._others)
        return max((row[at + 2] for row, at in places if at), default=0) / 1000

    def close(self) -> None:
        """Take this process's counts away."""
        self._own[1] = 0


class _Other:
    """Another process's row, with an index of it that is made anew when that process is."""

    def __init__(self, row: memoryview) -> None:
        self.row = row
        self._generation = 0
        self._places: dict[int, int] = {}

    def find(self, key: int) -> int:
        """Where a worker's counts are; 0 where there are none."""
        count = self.row[1]
        if self.row[0] != self._generation or count < len(self._places):
            self._generation = self.row[0]
            self._places.clear()
        while len(self._places) < count:
            at = 2 + _CELLS * len(self._places)
            self._places[self.row[at]] = at + 1
        return self._places.get(key, 0)


def _key(worker: int) -> int:
    return worker & _63_BITS
