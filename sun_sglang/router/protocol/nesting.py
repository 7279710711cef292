"""The nesting depth of JSON. Pure.

orjson parses 1,024 levels and writes 254. Python compares and prints nested lists by recursion, which fails before
1,000 levels.
"""

from __future__ import annotations

from typing import Any

import orjson

MAX_DEPTH = 254


def is_too_deep(raw: bytes, parsed: Any) -> bool:
    """Return whether JSON has more than `MAX_DEPTH` levels.

    Args:
        raw: the JSON text. A text with few brackets is not examined further.
        parsed: the parsed JSON.
    """
    return raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _exceeds(parsed)


def may_be_too_deep(text: str, around: int) -> bool:
    """Return whether a text has enough brackets for more than `MAX_DEPTH` levels with `around` levels around it."""
    return text.count("[") + text.count("{") + around > MAX_DEPTH


def is_text_too_deep(text: str, around: int) -> bool:
    """Return whether a text is JSON that has more than `MAX_DEPTH` levels together with `around` levels around it."""
    if not may_be_too_deep(text, around):
        return False
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    for _ in range(around):
        parsed = [parsed]
    return _exceeds(parsed)


def _exceeds(parsed: Any) -> bool:
    try:
        orjson.dumps(parsed)
    except orjson.JSONEncodeError:
        return True
    return False
