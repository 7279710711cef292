"""The length and the checksum of what was shown, with which the same content is recognised when it comes again."""

from __future__ import annotations

import zlib
from collections.abc import Sequence


class ReplayDiffersError(Exception):
    """A repeated answer is not the one that the client has a part of. The message names the difference."""


class Channel:
    """One part of an answer, which arrives in pieces.

    Args:
        name: for error messages.

    Attributes:
        left: how much of what was shown has not come again; 0 unless the answer is repeated.
    """

    __slots__ = ("_again", "_crc", "_length", "_name", "left")

    def __init__(self, name: str) -> None:
        self._name = name
        self._length = 0
        self._crc = 0
        self._again = 0
        self.left = 0

    def rewind(self) -> None:
        """Expect all that was shown again from its start."""
        self.left, self._again = self._length, 0


class TextChannel(Channel):
    """A text, such as the content of a message. Its length is in bytes of UTF-8."""

    __slots__ = ()

    def add(self, data: bytes) -> None:
        """Note a piece that is shown."""
        self._length += len(data)
        self._crc = zlib.crc32(data, self._crc)

    def cut(self, data: bytes) -> bytes:
        """Return the part of the next piece that was not shown before, and note it.

        Raises:
            ReplayDiffersError: the text that was shown has come to its end, and is another one.
        """
        if self.left:
            old = data[: self.left]
            data = data[self.left :]
            self._again = zlib.crc32(old, self._again)
            self.left -= len(old)
            if not self.left and self._again != self._crc:
                raise ReplayDiffersError(f"the repeated {self._name} is another one")
        if data:
            self.add(data)
        return data


class EntryChannel(Channel):
    """A list, such as the log probabilities of tokens. Its length is in entries."""

    __slots__ = ()

    def cut(self, keys: Sequence[bytes]) -> int:
        """Return how many of the next entries were shown before, and note the others.

        Args:
            keys: the part of each entry that must be equal when it comes again.

        Raises:
            ReplayDiffersError: the entries that were shown have come to their end, and are others.
        """
        old = min(self.left, len(keys))
        if old:
            self._again = _checksum(keys[:old], self._again)
            self.left -= old
            if not self.left and self._again != self._crc:
                raise ReplayDiffersError(f"the repeated {self._name} has other entries")
        new = keys[old:]
        self._length += len(new)
        self._crc = _checksum(new, self._crc)
        return old


def _checksum(keys: Sequence[bytes], start: int) -> int:
    for key in keys:
        start = zlib.crc32(b"%d:%b" % (len(key), key), start)
    return start
