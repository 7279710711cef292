"""The requests in the bytes of one connection: where each header begins and ends, and how large it is. Pure.

aiohttp bounds each field and their number: 128 fields of 64 KiB would be 8 MiB for each connection. It also does not
report that a header has begun. A client may send requests ahead, so one piece of data may hold the end of a body, whole
requests and the beginning of a header. aiohttp's parser alone decides what is valid: it ends a connection whose bytes
are not HTTP, whatever is measured here.
"""

from __future__ import annotations

import re
from enum import Enum, auto

# 64 KiB for what a user's network adds, such as the tokens of a single sign-on, and 8 KiB for all else
MAX_HEADER_BYTES = 72 << 10
_EMPTY = b"\r\n"
_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,18})")
_CHUNKED = re.compile(rb"\ntransfer-encoding:[^\n]*chunked")
_ORIGIN = re.compile(rb"\norigin:[ \t]*([!-~]*)[ \t]*\r?\n")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")


class _Part(Enum):
    """What the next byte belongs to."""

    HEADER = auto()
    BODY = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILER = auto()


class RequestMeter:
    """Follows one connection from request to request.

    Attributes:
        requests: how many headers were complete.
        start: where the last header, chunk size or trailer begins in the data measured last; 0 if it began before.
    """

    __slots__ = ("_left", "_part", "_text", "requests", "start")

    def __init__(self) -> None:
        self.requests = 0
        self.start = 0
        self._part = _Part.HEADER
        # bytes of a body or a chunk that have not arrived
        self._left = 0
        # the incomplete header, chunk size or trailer
        self._text = bytearray()

    @property
    def in_header(self) -> bool:
        """Whether a header has begun and is incomplete."""
        return self._part is _Part.HEADER and bool(self._text)

    @property
    def origin(self) -> str | None:
        """The `Origin` in the header that is incomplete; None if it has not arrived."""
        found = _ORIGIN.search(self._text.lower()) if self._part is _Part.HEADER else None
        return None if found is None else self._text[found.start(1) : found.end(1)].decode()

    def exceeds(self, data: bytes) -> bool:
        """Measure the next bytes. Return whether a header, chunk size or trailer is over `MAX_HEADER_BYTES`."""
        at = self.start = 0
        while at < len(data):
            if self._part in (_Part.BODY, _Part.CHUNK):
                at = self._skip(data, at)
            elif (end := self._read(data, at)) < 0:
                return True
            else:
                at = end
        return False

    def _skip(self, data: bytes, at: int) -> int:
        """Skip bytes of a body or a chunk. Return where the next part begins."""
        taken = min(self._left, len(data) - at)
        self._left -= taken
        if not self._left:
            self._begin(_Part.HEADER if self._part is _Part.BODY else _Part.CHUNK_SIZE)
        return at + taken

    def _read(self, data: bytes, at: int) -> int:
        """Read a header, chunk size or trailer. Return where the next part begins; -1 if this one is too large."""
        if self._part is _Part.HEADER and not self._text and data[at] in _EMPTY:
            # an HTTP parser ignores empty lines before a request
            at = len(data) - len(data[at:].lstrip(_EMPTY))
        if len(self._text) == (self._part is _Part.TRAILER):
            self.start = at
        end = self._find_end(data, at)
        self._text += data[at:end]
        if len(self._text) > MAX_HEADER_BYTES:
            return -1
        if end is None:
            return len(data)
        self._take(bytes(self._text))
        return end

    def _find_end(self, data: bytes, at: int) -> int | None:
        """Return where the header, chunk size or trailer ends in `data`; None if it is incomplete."""
        if self._part is _Part.CHUNK_SIZE:
            return data.find(b"\n", at) + 1 or None
        if self._text:
            before = bytes(self._text[-2:])
            if split := _END.search(before + data[at : at + 2]):
                return at + split.end() - len(before)
        found = _END.search(data, at)
        return None if found is None else found.end()

    def _take(self, text: bytes) -> None:
        """Begin the part that follows a complete header, chunk size or trailer."""
        if self._part is _Part.HEADER:
            self.requests += 1
            lower = text.lower()
            length = _LENGTH.search(lower)
            if _CHUNKED.search(lower):
                self._begin(_Part.CHUNK_SIZE)
            elif length is not None and int(length[1]):
                self._begin(_Part.BODY, int(length[1]))
            else:
                self._begin(_Part.HEADER)
        elif self._part is _Part.CHUNK_SIZE:
            digits = _CHUNK_SIZE.match(text)
            size = int(digits[0], 16) if digits is not None else 0
            # a chunk ends with CR and LF
            self._begin(*((_Part.CHUNK, size + 2) if size else (_Part.TRAILER, 0)))
        else:
            self._begin(_Part.HEADER)

    def _begin(self, part: _Part, left: int = 0) -> None:
        self._part, self._left = part, left
        # a trailer without fields is one empty line
        self._text[:] = b"\n" if part is _Part.TRAILER else b""
