"""The thread that writes log lines. I/O: one file descriptor.

A write blocks if the descriptor is a full pipe whose reader stalls, or a file on a network file system. The event loop
must not wait for that, so lines go through a bounded queue. A line is dropped and counted if the queue is full. The
descriptor stays in blocking mode, since other processes share its open file description.
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
    """Writes lines to a descriptor in the order in which they arrive.

    Lines are lost if the queue is full (`blocked`) or if a write fails (`failed`). The first write that succeeds after
    that begins with an event `log_lines_lost`.

    Args:
        descriptor: receives the lines; it stays open.
        lost: counts lost lines by reason.
        queue_bytes: the most bytes that may wait.
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
        # a daemon thread: the process can exit while a write blocks forever
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue a line, which includes its line feed. Return at once."""
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
        """Write how many lines were lost since the last report."""
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
        """Write as many bytes as the descriptor accepts. Return their number."""
        if self._torn:
            # end the incomplete line of a failed write, so that the next line is valid JSON
            data, added = b"\n" + data, 1
        else:
            added = 0
        done = 0
        while done < len(data):
            try:
                done += os.write(self._descriptor, data[done:] if done else data)
            except BlockingIOError:
                # another process set the shared descriptor to non-blocking mode
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                break
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        return max(0, done - added)
