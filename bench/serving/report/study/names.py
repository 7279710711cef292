"""Names as a reader sees them: a name is of any length, and may have characters that change the text around it."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 60
_HEAD, _TAIL = 40, 19


def readable(text: str) -> str:
    """Return a text with control characters, and those that turn the direction of writing, as escapes; lines remain."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def short(name: str) -> str:
    """Return a name as `readable` does; the middle of one longer than 60 characters is left out."""
    text = readable(name).replace("\n", "\\n")
    return text if len(text) <= _LONGEST else f"{text[:_HEAD]}…{text[-_TAIL:]}"


def unique(names: Iterable[str]) -> dict[str, str]:
    """Return the short form of each name; equal forms of different names are numbered."""
    found: dict[str, str] = {}
    for name in names:
        label = text = short(name)
        number = 1
        while label in found.values():
            number += 1
            label = f"{text} #{number}"
        found.setdefault(name, label)
    return found
