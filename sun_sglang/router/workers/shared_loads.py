"""What the processes of one router have on each worker, in memory that all of them see.

Each process writes a row of its own and reads the others', so nothing is locked: a row is a generation, a count, the
process's id and start time, and for each worker its hash, requests, tokens, and the milliseconds of monotonic time
until which it reads long prompts, all 64-bit integers. The row of a process that was killed stays as it was; it counts
for nothing once the process is gone.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from pathlib import Path

from sun_sglang.contracts.fleet_file import MAX_WORKERS
from sun_sglang.processes import start_ticks
from sun_sglang.router.deadlines import Deadlines

_HEAD = 4
_CELLS = 4
_ROW = _HEAD + _CELLS * MAX_WORKERS
_63_BITS = (1 << 63) - 1


class SharedLoads:
    """The table, as one process has it.

    Args:
        path: the file that holds it; made by whoever comes first.
        process: this process, from 0.
        processes: how many there are.
        deadlines: how often the other processes are looked for.
    """

    def __init__(self, path: Path, process: int, processes: int, deadlines: Deadlines) -> None:
        self._interval = deadlines.shared_loads
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
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        # what an earlier process left in this row has ended with it
        self._own[1] = 0
        self._own[2], self._own[3] = os.getpid(), start_ticks(os.getpid()) or 0
        self._renew()

    def acquire(self, worker: int) -> memoryview:
        """Return this process's cells of a worker, by the worker's hash: requests, tokens, end of reading; all 0.

        A worker beyond the table's size, as there may be while as many others leave, gets cells that no other process
        sees.
        """
        key = _key(worker)
        at = self._places.get(key)
        if at is None and self._free:
            at = self._free.pop()
            self._own[at] = key
            self._renew()
        elif at is None and self._own[1] < MAX_WORKERS:
            at = _HEAD + _CELLS * self._own[1]
            self._own[at] = key
        if at is None:
            return memoryview(bytearray(8 * (_CELLS - 1))).cast("q")
        self._places[key] = at
        self._clear(at + 1, at + _CELLS)
        self._own[1] = max(self._own[1], (at - _HEAD) // _CELLS + 1)
        return self._own[at + 1 : at + _CELLS]

    def release(self, worker: int) -> None:
        """Give the cells of a worker back, whoever gets them next."""
        at = self._places.pop(_key(worker), None)
        if at is not None:
            self._clear(at, at + _CELLS)
            self._free.append(at)

    def of_others(self, worker: int) -> tuple[int, int]:
        """Requests and tokens that the other processes have on a worker."""
        requests = tokens = 0
        for other in self._others:
            at = other.find(_key(worker))
            if at:
                requests += other.row[at]
                tokens += other.row[at + 1]
        return requests, tokens

    def tokenizing_until(self, worker: int) -> float:
        """Return the monotonic time in seconds until which a worker reads long prompts of the other processes."""
        places = ((other.row, other.find(_key(worker))) for other in self._others)
        return max((row[at + 2] for row, at in places if at), default=0) / 1000

    async def run(self) -> None:
        """Look whether the other processes are there, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(self._interval)

    def look(self) -> None:
        """Look once."""
        for other in self._others:
            other.look()

    def close(self) -> None:
        """Take this process's counts away."""
        self._own[1] = 0

    def _clear(self, begin: int, end: int) -> None:
        for cell in range(begin, end):
            self._own[cell] = 0

    def _renew(self) -> None:
        """Let the others make their index of this row anew."""
        self._own[0] = int.from_bytes(os.urandom(8), "little") & _63_BITS


class _Other:
    """Another process's row, with an index of it that is made anew when the row's generation changes."""

    def __init__(self, row: memoryview) -> None:
        self.row = row
        self._gone: int | None = None
        self._generation = 0
        self._indexed = 0
        self._places: dict[int, int] = {}

    def look(self) -> None:
        """Note the row's generation where its process is gone; the next process makes another."""
        is_gone = self.row[1] > 0 and (start_ticks(self.row[2]) or 0) != self.row[3]
        self._gone = self.row[0] if is_gone else None

    def find(self, key: int) -> int:
        """Where a worker's counts are; 0 where there are none."""
        count = self.row[1]
        if self.row[0] != self._generation or count < self._indexed:
            self._generation, self._indexed = self.row[0], 0
            self._places.clear()
        if self._generation == self._gone:
            return 0
        while self._indexed < count:
            at = _HEAD + _CELLS * self._indexed
            self._places[self.row[at]] = at + 1
            self._indexed += 1
        return self._places.get(key, 0)


def _key(worker: int) -> int:
    return worker & _63_BITS
