"""What the messages of a chat, and the variables of its template, may hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sun_sglang.contracts.template_variables import RESERVED_VARIABLES
from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.json_body import too_large
from sun_sglang.router.protocol.json_size import JsonSize, json_size
from sun_sglang.router.protocol.nesting import MAX_DEPTH, is_text_too_deep, may_be_too_deep

# the parts of a message that contain no media; a worker would fetch media from any URL, even its own host and files
TEXT_PARTS = ("text", "thinking", "reasoning", "tool_reference")
# levels of a body around the arguments of a tool call that are sent as an object
_LEVELS_AROUND = 6
# those that a request has a field for
_FIELDS = ("messages", "tools", "continue_final_message")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check the parts and the tool calls of messages.

    Raises:
        RequestError: 400, a part contains media, or the arguments of a tool call are nested too deeply; 413, all
            arguments together have more than a body may have.
    """
    size = JsonSize(0, 0)
    for index, message in enumerate(messages):
        if isinstance(content := message.get("content"), list):
            _check_parts(content)
        if isinstance(calls := message.get("tool_calls"), list):
            for place, call in enumerate(calls):
                size = _check_arguments(call, f"messages.{index}.tool_calls.{place}.function.arguments", size)


def check_template_variables(variables: Mapping[str, Any] | None) -> None:
    """Refuse variables that are arguments of the function which renders the template.

    Raises:
        RequestError: 400, names the first one.
    """
    for name in variables or ():
        if name in RESERVED_VARIABLES:
            fix = f"send the field `{name}`" if name in _FIELDS else "remove it"
            message = f"`chat_template_kwargs.{name}` is set by the server and is no variable of the template; {fix}"
            raise RequestError(400, message, param="chat_template_kwargs", code="reserved_field")


def _check_parts(parts: list[Any]) -> None:
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in TEXT_PARTS:
            raise RequestError(
                400,
                f"`messages.content` holds a part of type {kind!r}; only text models are served: "
                f"send {', '.join(TEXT_PARTS)}",
                param="messages",
            )


def _check_arguments(call: Any, where: str, before: JsonSize) -> JsonSize:
    """Refuse arguments whose JSON is too deep. A worker parses them, and templates print them by recursion.

    Args:
        call: the call.
        where: the name of its arguments.
        before: the size of the arguments before it.

    Returns:
        The size with these arguments.
    """
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(arguments, str) or not may_be_too_deep(arguments, _LEVELS_AROUND):
        return before
    more = json_size(arguments.encode())
    size = JsonSize(before.containers + more.containers, before.strings + more.strings)
    if size.is_too_large:
        raise too_large(f"`{where}`, with the arguments before it,", "messages")
    if is_text_too_deep(arguments, _LEVELS_AROUND):
        message = f"`{where}` is nested deeper than {MAX_DEPTH - _LEVELS_AROUND} levels"
        raise RequestError(400, message, param="messages")
    return size
