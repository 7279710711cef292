"""The number of objects, lists and strings in JSON, counted before it is parsed. Pure.

orjson makes a Python object of each, and what reads the result visits each: a body of 15 MB with five million empty
lists kept the router's event loop busy for ten seconds. Numbers cost little: ten million take half a second.
"""

from __future__ import annotations

from typing import NamedTuple

# Measured for the most expensive items of each API: a body with as many takes less than half a second. A conversation
# that fills a context of a million tokens has a tenth of it.
MAX_CONTAINERS = 65_536
MAX_STRINGS = 524_288


class JsonSize(NamedTuple):
    """What a JSON text has.

    Attributes:
        containers: objects and lists; not counted (0) where `strings` is over its bound.
        strings: strings and names of members.
    """

    containers: int
    strings: int

    @property
    def is_too_large(self) -> bool:
        """Whether it has more than a request may have."""
        return self.containers > MAX_CONTAINERS or self.strings > MAX_STRINGS


def json_size(raw: bytes) -> JsonSize:
    """Return the size of a JSON text, by passes in C. That of a text which is no JSON means nothing."""
    # a pair of backslashes first, so that the quote after it ends its string
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    if strings > MAX_STRINGS:
        return JsonSize(0, strings)
    outside = b"".join(bare.split(b'"')[::2])
    return JsonSize(_brackets(outside), strings)


def is_too_large(raw: bytes) -> bool:
    """Return whether a JSON text has more objects and lists, or strings, than a request may have."""
    if _brackets(raw) <= MAX_CONTAINERS and raw.count(b'"') <= 2 * MAX_STRINGS:
        return False
    return json_size(raw).is_too_large


def _brackets(raw: bytes) -> int:
    return raw.count(b"[") + raw.count(b"{")
