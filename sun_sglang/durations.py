"""Durations in files: a number of seconds, or a number with a unit such as `25ms` or `2m`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h)\s*")


def parse_duration(value: object) -> object:
    """Return the seconds of a text with a unit; any other value as it is, for the field's own check.

    Raises:
        ValueError: a text is no duration.
    """
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError("is no duration; write seconds, or a number with ms, s, m or h, such as `25ms`")
    return float(match[1]) * _SECONDS[match[2]]


Seconds = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=float | str)]
"""Seconds, given as a number or as a text with a unit."""
