"""Tools and their choice in a Messages request as those of a chat completion. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sun_sglang.router.protocol.fields import value_types
from sun_sglang.router.protocol.translation.reading import (
    checked,
    invalid,
    object_of,
    objects_of,
    text_of,
    unsupported,
)


def chat_tools(given: object) -> list[dict[str, Any]]:
    """Return the tools of a chat completion.

    Raises:
        RequestError: 400, a tool is not the client's own; names it.
    """
    tools = []
    for i, tool in enumerate(objects_of(given, "tools")):
        if (kind := tool.get("type")) not in (None, "custom"):
            raise unsupported(f"tools[{i}].type", f"{kind!r}; this server runs no tools: send them with `input_schema`")
        function: dict[str, Any] = {
            "name": text_of(tool.get("name"), f"tools[{i}].name"),
            "parameters": object_of(tool.get("input_schema"), f"tools[{i}].input_schema"),
        }
        for name in ("description", "strict"):
            if tool.get(name) is not None:
                function[name] = tool[name]
        tools.append({"type": "function", "function": function})
    return tools


def tool_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a chat completion for tools and their choice.

    Raises:
        RequestError: 400, one of both is invalid.
    """
    if not given.get("tools"):
        choice = given.get("tool_choice")
        if isinstance(choice, dict) and choice.get("type") in ("any", "tool"):
            raise invalid("tools", "a list with a tool if `tool_choice` requires a call")
        return {}
    fields: dict[str, Any] = {"tools": chat_tools(given["tools"])}
    if given.get("tool_choice") is None:
        return fields
    choice = object_of(given["tool_choice"], "tool_choice")
    match choice.get("type"):
        case "tool":
            name = text_of(choice.get("name"), "tool_choice.name")
            fields["tool_choice"] = {"type": "function", "function": {"name": name}}
        case "auto" | "none" as kind:
            fields["tool_choice"] = kind
        case "any":
            fields["tool_choice"] = "required"
        case _:
            raise invalid("tool_choice.type", "`auto`, `any`, `tool` or `none`")
    if checked(choice, "disable_parallel_tool_use", value_types.FLAG):
        fields["parallel_tool_calls"] = False
    return fields
