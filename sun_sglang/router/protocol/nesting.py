"""How deep JSON is nested. Pure.

orjson reads 1,024 levels and writes 254. Python compares and prints nested lists by recursion and fails before 1,000.
"""

from __future__ import annotations

from typing import Any

import orjson

MAX_DEPTH = 254


def is_too_deep(raw: bytes, parsed: Any) -> bool:
    """Return whether JSON has more than `MAX_DEPTH` levels.

    Args:
        raw: its text; one with few brackets needs no closer look.
        parsed: the same, parsed.
    """
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    try:
        orjson.dumps(parsed)
    except orjson.JSONEncodeError:
        return True
    return False
