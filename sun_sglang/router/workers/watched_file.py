"""A file that other processes change while the router runs. I/O: `stat`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

_Stamp: TypeAlias = tuple[int, int, int] | None


class WatchedFile:
    """Detects that a file was replaced or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._stamp()

    def changed(self) -> bool:
        """Return whether the file has changed since the last call of `changed` or `note`."""
        stamp = self._stamp()
        changed, self._seen = stamp != self._seen, stamp
        return changed

    def note(self) -> None:
        """Ignore the changes up to now: the router itself has written the file."""
        self._seen = self._stamp()

    def _stamp(self) -> _Stamp:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
