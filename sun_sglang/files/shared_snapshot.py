"""A value that one process writes and others read, in an anonymous file: no message and no lock between them.

The file vanishes with the process that made it. It has two places for a value, and a number that selects one. The
writer fills the other place and then changes the number, so a writer that stops in the middle of a write leaves the
value before it. A checksum tells a reader that two writes overtook it.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

MOST_BYTES: Final = 1 << 24
"""The longest value. The file takes memory for the values that it holds."""

_NUMBER: Final = struct.Struct("<Q")  # of the value; its last bit selects the place
_HEADER: Final = struct.Struct("<II")  # length and checksum of a value
_ATTEMPTS = 1000


class SnapshotReader:
    """A reader of a snapshot.

    Args:
        path: path of the snapshot.

    Raises:
        OSError: the process that made the file has ended.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY)

    def number(self) -> int:
        """Return how often a value was written: it tells cheaply whether there is another value."""
        content = os.pread(self._fd, _NUMBER.size, 0)
        return int(_NUMBER.unpack(content)[0]) if len(content) == _NUMBER.size else 0

    def read(self) -> bytes:
        """Return the value that was written last; empty before the first.

        Raises:
            OSError: the file holds no whole value.
        """
        for _ in range(_ATTEMPTS):
            content = os.pread(self._fd, _NUMBER.size, 0)
            if len(content) < _NUMBER.size:
                return b""
            start = _place(*_NUMBER.unpack(content))
            header = os.pread(self._fd, _HEADER.size, start)
            if len(header) == _HEADER.size:
                length, checksum = _HEADER.unpack(header)
                value = os.pread(self._fd, min(length, MOST_BYTES), start + _HEADER.size)
                if len(value) == length and zlib.crc32(value) == checksum:
                    return value
        raise OSError("the shared file holds no whole value")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class SharedSnapshot(SnapshotReader):
    """The file, in the process that makes it.

    Args:
        name: a name for people who look at the process's open files.

    Attributes:
        path: path by which processes of this user open the file, as long as this process lives.
    """

    def __init__(self, name: str) -> None:
        self._fd = os.memfd_create(name)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"


class SnapshotWriter:
    """The one writer of a snapshot.

    Args:
        path: path of the snapshot.

    Raises:
        OSError: the process that made the file has ended.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY)
        self._number = 0

    def write(self, value: bytes) -> None:
        """Replace the value, which has at most `MOST_BYTES` bytes."""
        assert len(value) <= MOST_BYTES, "a snapshot is small"
        number = self._number + 1
        os.pwrite(self._fd, _HEADER.pack(len(value), zlib.crc32(value)) + value, _place(number))
        os.pwrite(self._fd, _NUMBER.pack(number), 0)
        self._number = number

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _place(number: int) -> int:
    """Return the offset of a value."""
    return _NUMBER.size + (number & 1) * (_HEADER.size + MOST_BYTES)
