"""The thread that writes log lines. I/O: one file descriptor.

A write to a full pipe whose reader stalls blocks, and so does one to a network file system. No event loop may wait for
that, so lines go through a bounded queue; a line that finds the queue full is dropped and counted. The descriptor stays
in blocking mode: its open file description belongs to other processes too.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import Counter, deque

from sun_sglang.router.observability.log import encode

QUEUE_BYTES = 4 << 20


class LogWriter:
    """Writes lines to a descriptor in the order in which they came.

    Lines are lost where the queue is full (`blocked`) or where the write fails (`failed`). The first write that works
    again begins with an event `log_lines_lost`.

    Args:
        descriptor: where lines go; it stays open.
        lost: counts lost lines by the reason.
        queue_bytes: how much may wait.
    """

    def __init__(self, descriptor: int, lost: Counter[str], queue_bytes: int = QUEUE_BYTES) -> None:
        self._descriptor = descriptor
        self._lost = lost
        self._reported = 0
        self._most = queue_bytes
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._writing = False
        self._torn = False
        self._closed = False
        self._changed = threading.Condition()
        # a daemon: the end of the process does not wait for a write that never returns
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue a line, which ends with a line end. Returns at once."""
        data = text.encode(errors="backslashreplace")
        with self._changed:
            if self._closed or self._size + len(data) > self._most:
                self._lost["blocked"] += 1
                return
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify_all()

    def flush(self) -> None:
        """Do nothing: the thread writes each line as soon as it can."""

    def close(self, seconds: float) -> None:
        """Take no more lines, and wait until those that are queued are written, at most `seconds`."""
        end = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while (self._waiting or self._writing) and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                data = b"".join(self._waiting)
                self._waiting.clear()
                self._size = 0
                self._writing = True
            self._report()
            self._write(data)

    def _report(self) -> None:
        """Tell how many lines were lost since the last report, once that can be written."""
        lost = self._lost.total() - self._reported
        if not lost:
            return
        line = encode({"time": round(time.time(), 3), "event": "log_lines_lost", "lines": lost}).encode()
        if self._put(line) == len(line):
            self._reported += lost

    def _write(self, data: bytes) -> None:
        done = self._put(data)
        if done < len(data):
            with self._changed:
                self._lost["failed"] += data.count(b"\n", done)

    def _put(self, data: bytes) -> int:
        """Write as much as can be written. Returns how many bytes were."""
        if self._torn:
            # the rest of a line whose write failed is a line of its own, which is no JSON
            data, added = b"\n" + data, 1
        else:
            added = 0
        done = 0
        while done < len(data):
            try:
                done += os.write(self._descriptor, data[done:] if done else data)
            except BlockingIOError:
                # somebody else set the descriptor to non-blocking mode
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                break
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        return max(0, done - added)
