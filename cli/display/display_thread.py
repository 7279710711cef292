"""Write to a terminal or a pipe without waiting for its reader."""

from __future__ import annotations

import threading
from collections.abc import Callable

_LAST_WORDS_S = 1.0


class DisplayThread:
    """A thread that runs the functions which write to a terminal or a pipe.

    A write blocks while its reader stalls (Ctrl-S, a full pipe). The supervisor must restart workers and obey signals
    meanwhile, so it only hands over the newest state and continues. A reader that leaves ends only the display.

    Args:
        gone: called once if the reader has left.
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
        """Show the newest state; an earlier state that is not shown yet is dropped."""
        with self._changed:
            self._newest = write
            self._changed.notify()

    def note(self, write: Callable[[], None]) -> None:
        """Show something once; it is never dropped."""
        with self._changed:
            self._notes.append(write)
            self._changed.notify()

    def close(self) -> bool:
        """Show the rest and end the thread. Returns False where a write still blocks after one second."""
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
                # a closed pipe or terminal, or a full disk: no output can report it
                self._gone()
                return

    def _take(self) -> list[Callable[[], None]] | None:
        with self._changed:
            while not (self._notes or self._newest or self._closed):
                self._changed.wait()
            batch = [*self._notes, *([self._newest] if self._newest else [])]
            self._notes, self._newest = [], None
            return batch or None
