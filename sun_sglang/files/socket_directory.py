"""Addresses of Unix sockets, also where a path is longer than the kernel allows."""

from __future__ import annotations

import os
from pathlib import Path

# bytes of `sockaddr_un.sun_path` (linux/un.h) without the final zero
_LONGEST_ADDRESS = 107


class SocketDirectory:
    """A directory that holds Unix sockets. Close it after the last use of its addresses.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def address(self, name: str) -> str:
        """Return the address to bind or to connect to for a socket of the directory.

        A path that is too long for the kernel is replaced by one through an open descriptor of the directory.

        Args:
            name: file name of the socket.

        Raises:
            OSError: the directory cannot be opened.
        """
        path = self._path / name
        if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
            return str(path)
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}/{name}"

    def close(self) -> None:
        """Close the descriptor, where there is one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
