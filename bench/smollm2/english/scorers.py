"""Which answers of a task are right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sun_sglang.bench.smollm2.english.python_call import is_accepted, parse_call

Scorer = Callable[[str, Mapping[str, Any]], bool]
"""Takes an answer and its row, and returns whether the answer is right."""


def same_text(answer: str, row: Mapping[str, Any]) -> bool:
    """Return whether two texts have the same words in the same order."""
    return bool(answer.split() == row["answer"].split())


def same_json(answer: str, row: Mapping[str, Any]) -> bool:
    """Return whether two texts are the same JSON value; the order of keys does not matter."""
    try:
        return bool(json.loads(answer) == json.loads(row["answer"]))
    except (ValueError, RecursionError):
        return False


def accepted_call(answer: str, row: Mapping[str, Any]) -> bool:
    """Return whether a text is one of the possible calls, by BFCL's rule."""
    return is_accepted(parse_call(answer), row["accepted"])


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        "call": accepted_call,
        "extract": same_json,
        "intent": same_text,
        "language": same_text,
        "shell": same_text,
        "topic": same_text,
    }
)
