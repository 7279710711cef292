"""Tools, their choice, and text formats of a Responses request as those of a chat completion. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sun_sglang.router.protocol.translation.reading import (
    invalid,
    object_of,
    objects_of,
    text_of,
    unsupported,
)

_FUNCTION = ("name", "description", "parameters", "strict")
_SCHEMA = ("name", "description", "schema", "strict")


def chat_tools(given: object) -> list[dict[str, Any]]:
    """Return the tools of a chat completion.

    Raises:
        RequestError: 400, a tool is no function; names it.
    """
    tools = []
    for i, tool in enumerate(objects_of(given, "tools")):
        if (kind := tool.get("type")) != "function":
            raise unsupported(f"tools[{i}].type", f"{kind!r}; this server runs no tools: send functions")
        text_of(tool.get("name"), f"tools[{i}].name")
        function = {name: tool[name] for name in _FUNCTION if tool.get(name) is not None}
        tools.append({"type": "function", "function": function})
    return tools


def chat_tool_choice(choice: object, tools: list[dict[str, Any]]) -> tuple[object, list[dict[str, Any]]]:
    """Return the tool choice of a chat completion, and the tools that the model may call.

    Args:
        choice: the field `tool_choice`; None if there is none.
        tools: the tools of the chat completion.

    Raises:
        RequestError: 400, the choice is invalid, or names a tool that is no function.
    """
    if choice is None or choice in ("auto", "none", "required"):
        return choice, tools
    chosen = object_of(choice, "tool_choice")
    match chosen.get("type"):
        case "function":
            name = text_of(chosen.get("name"), "tool_choice.name")
            return {"type": "function", "function": {"name": name}}, tools
        case "allowed_tools":
            return _allowed_tools(chosen, tools)
        case kind:
            raise unsupported("tool_choice.type", f"{kind!r}; send `function` or `allowed_tools`")


def response_format(text: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the response format of a chat completion for the field `text`; None for plain text.

    Raises:
        RequestError: 400, the format is invalid.
    """
    if text.get("format") is None:
        return None
    wanted = object_of(text["format"], "text.format")
    match wanted.get("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            text_of(wanted.get("name"), "text.format.name")
            object_of(wanted.get("schema"), "text.format.schema")
            schema = {name: wanted[name] for name in _SCHEMA if wanted.get(name) is not None}
            return {"type": "json_schema", "json_schema": schema}
    raise invalid("text.format.type", "`text`, `json_schema` or `json_object`")


def _allowed_tools(choice: Mapping[str, Any], tools: list[dict[str, Any]]) -> tuple[object, list[dict[str, Any]]]:
    mode = choice.get("mode")
    if mode not in ("auto", "required"):
        raise invalid("tool_choice.mode", "`auto` or `required`")
    names = set()
    for i, tool in enumerate(objects_of(choice.get("tools"), "tool_choice.tools")):
        if tool.get("type") != "function":
            raise unsupported(f"tool_choice.tools[{i}].type", f"{tool.get('type')!r}; send functions")
        names.add(text_of(tool.get("name"), f"tool_choice.tools[{i}].name"))
    known = {tool["function"]["name"] for tool in tools}
    if missing := sorted(names - known):
        raise invalid("tool_choice.tools", f"names of `tools`; there is no `{missing[0]}`")
    return mode, [tool for tool in tools if tool["function"]["name"] in names]
