"""Check the syntax of the regular expressions in `stop_regex`, which the topology must allow.

A worker answers 500 to an invalid expression, which would look like the worker's fault. Patterns are parsed and never
compiled: compiling some patterns of 256 characters takes seconds. Parsing all patterns of a request takes milliseconds,
in a thread.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from re import _parser  # type: ignore[attr-defined]  # typeshed has no stub; SGLang parses with the same
from typing import Any

from sun_sglang.errors import RequestError

# the most characters of all patterns of one request
MAX_PATTERNS = 8192


async def check_patterns(body: Mapping[str, Any]) -> None:
    """Check every `stop_regex` of a request's body.

    Raises:
        RequestError: 400, a pattern is not a regular expression, or the patterns together are too long.
    """
    params = body.get("sampling_params") or ()
    holders = [body, *([params] if isinstance(params, dict) else params)]
    given = [holder["stop_regex"] for holder in holders if "stop_regex" in holder]
    if not given:
        return
    patterns = {p for each in given for p in ([each] if isinstance(each, str) else each)}
    if sum(map(len, patterns)) > MAX_PATTERNS:
        message = f"`stop_regex` has more than {MAX_PATTERNS:,} characters in all"
        raise RequestError(400, message, param="stop_regex")
    await asyncio.to_thread(_parse, patterns)


def _parse(patterns: set[str]) -> None:
    for pattern in patterns:
        try:
            _parser.parse(pattern)
        except (re.error, OverflowError, RecursionError) as e:
            message = f"`stop_regex` holds an invalid regular expression: {e}"
            raise RequestError(400, message, param="stop_regex") from e
