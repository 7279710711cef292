"""The tools of a row, in the form in which SGLang gives a request's tools to a chat template. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sun_sglang.errors import RecipeError

Tool = dict[str, Any]

# fields of a function; a missing one of the first three is null for the template
_REQUIRED = ("description", "name", "parameters")
_OPTIONAL = ("strict", "defer_loading")


def parse_tools(value: Any, where: str) -> list[Tool] | None:
    """Return tools as SGLang passes them to a chat template; None where there are none.

    Args:
        value: a list of tools, or its JSON text. A tool is OpenAI's `{"type": "function", "function": {...}}`, or the
            function alone.
        where: place of the value, for error messages.

    Raises:
        RecipeError: the value is no list of tools.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as e:
            raise RecipeError(f"{where}: is neither a list of tools nor its JSON text ({e})") from e
    if not value:
        return None
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{where}: is not a list of tools")
    return [_tool(tool, f"{where}[{i}]") for i, tool in enumerate(value)]


def _tool(value: Any, where: str) -> Tool:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RecipeError(f'{where}: is not {{"type": "function", "function": {{"name": ..., "parameters": ...}}}}')
    tool = value if function is not value else {}
    deferred = tool.get("defer_loading")
    known = {key: item for key, item in function.items() if key in (*_REQUIRED, *_OPTIONAL)}
    known |= {key: None for key in _REQUIRED if key not in known}
    if known.get("defer_loading") is None and deferred is not None:
        known["defer_loading"] = deferred
    served = {key: item for key, item in known.items() if item is not None or key in _REQUIRED}
    return {"type": tool.get("type") or "function", "function": served, "defer_loading": deferred}
