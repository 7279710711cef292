"""A file that others change while the router runs. I/O: its `stat`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

_Stamp: TypeAlias = tuple[int, int, int] | None


class WatchedFile:
    """Tells when a file was replaced or written since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._stamp()

    def changed(self) -> bool:
        """Return whether the file differs from the last look or note."""
        stamp = self._stamp()
        changed, self._seen = stamp != self._seen, stamp
        return changed

    def note(self) -> None:
        """Take the file as it is now for seen: the router has written it."""
        self._seen = self._stamp()

    def _stamp(self) -> _Stamp:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
