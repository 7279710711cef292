"""Find the end of a JSON object or list that arrives in pieces. Pure."""

from __future__ import annotations

import re

# an escape is one mark, so that `\"` does not end a string; the last character of a piece may be half of one
_MARKS = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)


class ObjectEnd:
    """Watches a text for the bracket that closes its first one. Each character is read once.

    Attributes:
        found: the text so far has a whole object or list; never true for a text without brackets.
    """

    def __init__(self) -> None:
        self.found = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, piece: str) -> None:
        """Read the next piece."""
        if self.found:
            return
        start = 1 if self._escaped and piece else 0
        self._escaped = self._escaped and not piece
        for match in _MARKS.finditer(piece, start):
            mark = match.group()
            if mark == '"':
                self._in_string = not self._in_string
            elif self._in_string:
                self._escaped = mark == "\\"
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.found = True
                    return
