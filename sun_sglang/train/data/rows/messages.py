"""Chat messages of a row, in the form in which SGLang gives a request's messages to a chat template. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from sun_sglang.errors import RecipeError
from sun_sglang.strict import listed
from sun_sglang.train.data.rows.tools import parse_tools

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# the names in ShareGPT's files
_OTHER_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
# what SGLang keeps of a message, in its order; of a user's message it keeps role and content
_SERVED = ("role", "content", "tool_call_id", "name", "phase", "reasoning_content", "tool_calls", "tools", "prefix")
_OF_USER = ("role", "content")
# names that other trainers give to `weight`
_OTHER_WEIGHTS = ("loss", "loss_weight", "mask", "masked", "train", "trainable", "training")
# read here and not passed on
_OWN = ("weight", "from", "value")


class ParsedMessage(NamedTuple):
    """A message as a chat template receives it.

    Attributes:
        message: the message. Without content it has the empty text; lists of text parts are kept.
        learned: false for an assistant message with `weight: 0`.
        says_nothing: its content is missing or null, and it has no tool calls and no reasoning.
        ignored: its keys that SGLang does not pass to the template.
    """

    message: Message
    learned: bool = True
    says_nothing: bool = False
    ignored: tuple[str, ...] = ()


def parse_messages(value: Any, where: str) -> list[ParsedMessage]:
    """Return the messages of a row.

    Args:
        value: a list of messages in OpenAI's form (`role`, `content`) or in ShareGPT's (`from`, `value`), or its JSON
            text.
        where: place of the list, for error messages.

    Raises:
        RecipeError: a message has another form; the message has its index.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not is_message_list(value):
        raise RecipeError(f"{where} is not a list of messages with `role` and `content`")
    return [_message(message, f"{where}[{i}]") for i, message in enumerate(value)]


def is_message_list(value: Any) -> bool:
    """Return whether a value looks like a list of messages."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value)
    )


def _message(raw: Mapping[str, Any], where: str) -> ParsedMessage:
    named = raw.get("role", raw.get("from"))
    role = named.lower() if isinstance(named, str) else ""
    role = _OTHER_NAMES.get(role, role)
    if role not in ROLES:
        raise RecipeError(f"{where}: the role {named!r} is unknown; serving knows {listed(ROLES)}")
    if raw.get("function_call") is not None:
        raise RecipeError(f"{where}.function_call: serving does not pass it to the model; write `tool_calls`")
    weight = next((key for key in _OTHER_WEIGHTS if role == "assistant" and raw.get(key) is not None), None)
    if weight is not None:
        raise RecipeError(
            f"{where}.{weight}: is not read; write `weight: 0` for an answer without a loss, or remove it"
        )
    content, calls = raw.get("content", raw.get("value")), raw.get("tool_calls")
    if named == "function_call":
        content, calls = None, _calls_of_text(content, where)
    fields: dict[str, Any] = {**raw, "role": role, "content": _content(content, role, f"{where}.content")}
    if calls is not None:
        if not isinstance(calls, list | tuple):
            raise RecipeError(f"{where}.tool_calls: is not a list")
        fields["tool_calls"] = [_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    if raw.get("tools") is not None:
        fields["tools"] = parse_tools(raw["tools"], f"{where}.tools")
    for key in ("reasoning_content", "name", "tool_call_id"):
        if not isinstance(fields.get(key), str | None):
            raise RecipeError(f"{where}.{key}: is not text")
    served = _OF_USER if role == "user" else _SERVED
    return ParsedMessage(
        {key: fields[key] for key in served if fields.get(key) is not None},
        role != "assistant" or _is_learned(raw.get("weight"), f"{where}.weight"),
        content is None and not fields.get("tool_calls") and not fields.get("reasoning_content"),
        tuple(key for key, item in raw.items() if item is not None and key not in (*served, *_OWN)),
    )


def _content(value: Any, role: str, where: str) -> Any:
    if value is None:
        if role == "user":
            raise RecipeError(f"{where}: is missing")
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{where}: is neither text nor a list of text parts; serving refuses it")
    parts = []
    for i, part in enumerate(value):
        good = isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not good:
            raise RecipeError(f'{where}[{i}]: is not {{"type": "text", "text": ...}}; training reads text only')
        parts.append({"type": "text", "text": part["text"]})
    return parts


def _calls_of_text(value: Any, where: str) -> list[Any]:
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as e:
        raise RecipeError(f"{where}: the function call is not JSON ({e})") from e
    return calls if isinstance(calls, list) else [calls]


def _tool_call(value: Any, where: str) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RecipeError(f'{where}: is not {{"type": "function", "function": {{"name": ..., "arguments": ...}}}}')
    call = value if function is not value else {}
    if call.get("type") not in (None, "function"):
        raise RecipeError(f"{where}.type: {call['type']!r} is not `function`")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    # the fields and the order that a template receives
    return {
        "id": call.get("id"),
        "index": call.get("index"),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _arguments(value: Any, where: str) -> Any:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as e:
            raise RecipeError(f"{where}: is not a JSON object ({e}); serving refuses it") from e
    if not isinstance(value, Mapping | None):
        raise RecipeError(f"{where}: is not a JSON object; serving refuses it")
    return value


def _is_learned(weight: Any, where: str) -> bool:
    if weight not in (None, 0, 1):
        raise RecipeError(f"{where}: {weight!r} is neither 0 nor 1")
    return bool(weight != 0)
