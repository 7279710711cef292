"""The conversation of a Messages request as the messages of a chat completion. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from sun_sglang.router.protocol.translation.reading import (
    invalid,
    joined_text,
    object_of,
    objects_of,
    text_of,
    unsupported,
)

_ONLY_TEXT = "only text is served; send `text`"


def chat_messages(system: object, given: object) -> list[dict[str, Any]]:
    """Return the messages of a conversation.

    Args:
        system: the field `system`: a string or blocks; None if there is none.
        given: the field `messages`.

    Raises:
        RequestError: 400, a message or a block is invalid or not supported; names it.
    """
    messages: list[dict[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": _system_text(system)})
    turns = objects_of(given, "messages")
    if not turns:
        raise invalid("messages", "a list with at least one message")
    for i, turn in enumerate(turns):
        where = f"messages[{i}].content"
        content = turn.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else objects_of(content, where)
        match turn.get("role"):
            case "user":
                messages += _user_messages(blocks, where)
            case "assistant":
                messages.append(_assistant_message(blocks, where))
            case "system":
                messages.append({"role": "system", "content": joined_text(content, where, ("text",), _ONLY_TEXT)})
            case _:
                raise invalid(f"messages[{i}].role", "`user` or `assistant`")
    return _without_empty_beginning(messages)


def _without_empty_beginning(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out a last message of the assistant without content: the model begins the answer."""
    last = messages[-1]
    if last["role"] != "assistant" or last["content"] or len(last) > 2:
        return messages
    if len(messages) == 1:
        raise invalid("messages", "a list with a message that has content")
    return messages[:-1]


def continues_answer(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the last message is the beginning of the answer, which the model has to continue."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _system_text(system: object) -> str:
    if isinstance(system, str):
        return system
    blocks = objects_of(system, "system")
    return "\n\n".join(joined_text([block], "system", ("text",), _ONLY_TEXT, i) for i, block in enumerate(blocks))


def _user_messages(blocks: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """Return a message for each result of a tool, and one for the texts in between."""
    messages: list[dict[str, Any]] = []
    texts: list[str] = []
    for i, block in enumerate(blocks):
        match block.get("type"):
            case "text":
                texts.append(text_of(block.get("text"), f"{where}[{i}].text"))
            case "tool_result":
                if texts:
                    messages.append({"role": "user", "content": "\n".join(texts)})
                    texts = []
                call = text_of(block.get("tool_use_id"), f"{where}[{i}].tool_use_id")
                content = joined_text(block.get("content") or "", f"{where}[{i}].content", ("text",), _ONLY_TEXT)
                messages.append({"role": "tool", "tool_call_id": call, "content": content})
            case kind:
                raise unsupported(f"{where}[{i}].type", f"{kind!r}; only text is served; send `text` or `tool_result`")
    if texts or not messages:
        messages.append({"role": "user", "content": "\n".join(texts)})
    return messages


def _assistant_message(blocks: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    texts, reasoning, calls = [], [], []
    for i, block in enumerate(blocks):
        match block.get("type"):
            case "text":
                texts.append(text_of(block.get("text"), f"{where}[{i}].text"))
            case "thinking":
                reasoning.append(text_of(block.get("thinking"), f"{where}[{i}].thinking"))
            case "redacted_thinking":
                pass  # only the server that made it can read it
            case "tool_use":
                calls.append(_call(block, f"{where}[{i}]"))
            case kind:
                why = f"{kind!r}; send `text`, `thinking` or `tool_use`"
                raise unsupported(f"{where}[{i}].type", why)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if reasoning:
        message["reasoning_content"] = "\n".join(reasoning)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = {
        "name": text_of(block.get("name"), f"{where}.name"),
        "arguments": orjson.dumps(object_of(block.get("input"), f"{where}.input")).decode(),
    }
    return {"id": text_of(block.get("id"), f"{where}.id"), "type": "function", "function": function}
