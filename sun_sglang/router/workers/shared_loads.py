"""A table in shared memory: the load of each process of one router on each worker.

Each process writes its own row and reads the other rows, so there is no lock. A row is a generation, a count, the id
and the start time of the process, and for each worker the hash of its name, requests, tokens, and the milliseconds of
monotonic time until which it tokenizes long bodies; all are 64-bit integers. The row of a process that was killed
stays as it was; it is ignored once the process is gone.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from pathlib import Path

from sun_sglang.contracts.fleet_file import MAX_WORKERS
from sun_sglang.processes import start_ticks
from sun_sglang.router.deadlines import Deadlines

# Cells at the head of a row.
_GENERATION, _COUNT, _PID, _START = range(4)
_HEAD = 4
# Cells of a worker: hash, requests, tokens, end of tokenization.
_CELLS = 4
_ROW = _HEAD + _CELLS * MAX_WORKERS
_63_BITS = (1 << 63) - 1


class SharedLoads:
    """The table, from the side of one process.

    Args:
        path: the file that is mapped; the first process creates it.
        process: number of this process, from 0.
        processes: number of processes.
        deadlines: the interval of the checks whether the other processes are alive.
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
        # the load that an earlier process left in this row has ended with it
        self._own[_COUNT] = 0
        self._own[_PID], self._own[_START] = os.getpid(), start_ticks(os.getpid()) or 0
        self._renew()

    def acquire(self, worker: int) -> memoryview:
        """Return the cells of this process for a worker: requests, tokens, end of tokenization; all 0.

        While as many workers leave as arrive, there may be more workers than the table has room for. The cells of such
        a worker are in private memory.

        Args:
            worker: hash of the worker's name.
        """
        key = _key(worker)
        at = self._places.get(key)
        if at is None and self._free:
            at = self._free.pop()
            self._own[at] = key
            self._renew()
        elif at is None and self._own[_COUNT] < MAX_WORKERS:
            at = _HEAD + _CELLS * self._own[_COUNT]
            self._own[at] = key
        if at is None:
            return memoryview(bytearray(8 * (_CELLS - 1))).cast("q")
        self._places[key] = at
        self._clear(at + 1, at + _CELLS)
        self._own[_COUNT] = max(self._own[_COUNT], (at - _HEAD) // _CELLS + 1)
        return self._own[at + 1 : at + _CELLS]

    def release(self, worker: int) -> None:
        """Free the cells of a worker, for the next `acquire`."""
        at = self._places.pop(_key(worker), None)
        if at is not None:
            self._clear(at, at + _CELLS)
            self._free.append(at)

    def of_others(self, worker: int) -> tuple[int, int]:
        """Return the requests and tokens that the other processes have in flight on a worker."""
        requests = tokens = 0
        for other in self._others:
            at = other.find(_key(worker))
            if at:
                requests += other.row[at]
                tokens += other.row[at + 1]
        return requests, tokens

    def tokenizing_until(self, worker: int) -> float:
        """Return the monotonic time in seconds until which a worker tokenizes long bodies of the other processes."""
        places = ((other.row, other.find(_key(worker))) for other in self._others)
        return max((row[at + 2] for row, at in places if at), default=0) / 1000

    async def run(self) -> None:
        """Check at an interval whether the other processes are alive, until cancelled."""
        while True:
            self.check_processes()
            await asyncio.sleep(self._interval)

    def check_processes(self) -> None:
        """Check once whether the other processes are alive; the rows of dead ones are ignored from now on."""
        for other in self._others:
            other.check_process()

    def close(self) -> None:
        """Remove the load of this process."""
        self._own[_COUNT] = 0

    def _clear(self, begin: int, end: int) -> None:
        for cell in range(begin, end):
            self._own[cell] = 0

    def _renew(self) -> None:
        """Start a new generation, so that the other processes index this row again."""
        self._own[_GENERATION] = int.from_bytes(os.urandom(8), "little") & _63_BITS


class _Other:
    """The row of another process, with an index that is rebuilt when the row's generation changes."""

    def __init__(self, row: memoryview) -> None:
        self.row = row
        self._gone: int | None = None
        self._generation = 0
        self._indexed = 0
        self._places: dict[int, int] = {}

    def check_process(self) -> None:
        """Store the row's generation if its process is gone; the next process begins another generation.

        Where this process cannot read the start time, as while it has no free descriptor, the last result stays.
        """
        try:
            is_gone = self.row[_COUNT] > 0 and (start_ticks(self.row[_PID]) or 0) != self.row[_START]
        except OSError:
            return
        self._gone = self.row[_GENERATION] if is_gone else None

    def find(self, key: int) -> int:
        """Return the index of the cell with a worker's requests; 0 if the row has none."""
        count = self.row[_COUNT]
        if self.row[_GENERATION] != self._generation or count < self._indexed:
            self._generation, self._indexed = self.row[_GENERATION], 0
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
