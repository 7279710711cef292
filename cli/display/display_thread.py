"""What a deployment shows in a terminal or a pipe. A reader that stalls or leaves stops only the display."""

from __future__ import annotations

import threading
from collections.abc import Callable

_LAST_WORDS_S = 1.0


class DisplayThread:
    """Runs what writes to a terminal in a thread of its own.

    A write blocks while nobody reads (Ctrl-S, a pipe that is full). The supervisor must restart workers and obey
    signals meanwhile, so it only leaves the newest thing to show here and goes on.

    Args:
        gone: called once if the reader has gone.
    """

    def __init__(self, gone: Callable[[], None]) -> None:
        self._gone = gone
        self._changed = threading.Condition()
        self._notes: list[Callable[[], None]] = []
        self._newest: Callable[[], None] | None = None
        self._closed = False
        # a daemon: a write that blocks for ever must not keep the process
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        self._thread.start()

    def show(self, write: Callable[[], None]) -> None:
        """Show the newest state; what an earlier call left unshown is dropped."""
        with self._changed:
            self._newest = write
            self._changed.notify()

    def note(self, write: Callable[[], None]) -> None:
        """Show something once; it is not dropped for anything newer."""
        with self._changed:
            self._notes.append(write)
            self._changed.notify()

    def close(self) -> bool:
        """Show what is left, and stop. Returns False where a write still blocks after one second."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_LAST_WORDS_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            try:
                for write in batch:
                    write()
            except (OSError, ValueError):
                # a closed pipe or terminal, or a full disk: nobody can be told
                self._gone()
                return

    def _take(self) -> list[Callable[[], None]] | None:
        with self._changed:
            while not (self._notes or self._newest or self._closed):
                self._changed.wait()
            batch = [*self._notes, *([self._newest] if self._newest else [])]
            self._notes, self._newest = [], None
            return batch or None
