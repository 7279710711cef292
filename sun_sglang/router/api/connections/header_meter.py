"""The size of a request's header. Pure.

aiohttp bounds each field and their number: 128 fields of 64 KiB would be 8 MiB for each connection.
"""

from __future__ import annotations

import re

# 64 KiB for what a user's network adds, such as the tokens of a single sign-on, and 8 KiB for all else
MAX_HEADER_BYTES = 72 << 10
_END = re.compile(rb"\n\r?\n")


class HeaderMeter:
    """Counts the bytes of one request line and its header fields.

    Args:
        complete: the header is not measured: its first bytes arrived with an earlier request.
    """

    __slots__ = ("_complete", "_size", "_tail")

    def __init__(self, *, complete: bool = False) -> None:
        self._complete = complete
        self._size = 0
        self._tail = b""

    def exceeds(self, data: bytes) -> bool:
        """Count the next bytes of the connection. Return whether the header is over `MAX_HEADER_BYTES`."""
        if self._complete:
            return False
        if not self._size:
            # an HTTP parser ignores empty lines before a request
            data = data.lstrip(b"\r\n")
        seen = self._tail + data
        if found := _END.search(seen):
            self._complete = True
            self._size += found.end() - len(self._tail)
        else:
            self._size += len(data)
            self._tail = seen[-2:]
        return self._size > MAX_HEADER_BYTES
