"""The input of a Responses request as the messages of a chat completion. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sun_sglang.router.protocol.translation.reading import (
    invalid,
    joined_text,
    objects_of,
    text_of,
    unsupported,
)

_TEXT = ("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal")
_ONLY_TEXT = "only text is served; send `input_text`"
_SYSTEM = ("system", "developer")


def messages_of(instructions: object, given: object) -> list[dict[str, Any]]:
    """Return the messages of a conversation.

    Args:
        instructions: the field `instructions`: a string or items; None if there is none.
        given: the field `input`: a string or a list of items.

    Raises:
        RequestError: 400, an item is invalid or not supported; names it.
    """
    conversation = _Conversation()
    if isinstance(instructions, str):
        conversation.add_system(instructions)
    elif instructions is not None:
        conversation.add_items(instructions, "instructions")
    if isinstance(given, str):
        conversation.add_user(given)
    else:
        conversation.add_items(given, "input")
    conversation.close()
    return conversation.messages


class _Conversation:
    """Messages as they are built: calls and reasoning join the assistant's message that they belong to."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        # joined once: a hostile conversation may have a hundred thousand of each
        self._system: list[str] = []
        self._reasoning: list[str] = []

    def add_items(self, given: object, where: str) -> None:
        """Add a list of items."""
        for i, item in enumerate(objects_of(given, where)):
            self._add(item, f"{where}[{i}]")

    def add_user(self, text: str) -> None:
        """Add a user's message."""
        self._append({"role": "user", "content": text})

    def add_system(self, text: str) -> None:
        """Add to the system message. A chat template takes one, at the beginning."""
        if not self._system:
            self._end_reasoning()
        self._system.append(text)

    def close(self) -> None:
        """Add what no other item follows."""
        self._end_reasoning()
        self._end_system()

    def _append(self, message: dict[str, Any]) -> None:
        self.close()
        self.messages.append(message)

    def _end_system(self) -> None:
        if self._system:
            self.messages.append({"role": "system", "content": "\n\n".join(self._system)})
            self._system = []

    def _end_reasoning(self) -> None:
        if self._reasoning:
            self._assistant()

    def _add(self, item: Mapping[str, Any], where: str) -> None:
        match item.get("type", "message"):
            case "message":
                self._add_message(item, where)
            case "reasoning":
                self._end_system()
                if text := _reasoning_of(item, where):
                    self._reasoning.append(text)
            case "function_call":
                self._add_call(item, where)
            case "function_call_output":
                content = joined_text(item.get("output"), f"{where}.output", _TEXT, _ONLY_TEXT)
                call = text_of(item.get("call_id"), f"{where}.call_id")
                self._append({"role": "tool", "tool_call_id": call, "content": content})
            case "item_reference":
                why = "this server keeps no items; send `store: false`, and the items themselves"
                raise unsupported(f"{where}.type", f"'item_reference'; {why}")
            case kind:
                why = "send `message`, `reasoning`, `function_call` or `function_call_output`"
                raise unsupported(f"{where}.type", f"{kind!r}; {why}")

    def _add_message(self, item: Mapping[str, Any], where: str) -> None:
        role = item.get("role")
        if role not in ("user", "assistant", *_SYSTEM):
            raise invalid(f"{where}.role", "`user`, `assistant`, `system` or `developer`")
        content = _content_of(item.get("content"), f"{where}.content")
        if role in _SYSTEM:
            self.add_system(content)
        elif role == "user":
            self.add_user(content)
        else:
            message = self._assistant(begins_text=True)
            message["content"] = (message["content"] or "") + content

    def _add_call(self, item: Mapping[str, Any], where: str) -> None:
        call = {
            "id": text_of(item.get("call_id"), f"{where}.call_id"),
            "type": "function",
            "function": {
                "name": text_of(item.get("name"), f"{where}.name"),
                "arguments": text_of(item.get("arguments"), f"{where}.arguments"),
            },
        }
        self._assistant().setdefault("tool_calls", []).append(call)

    def _assistant(self, *, begins_text: bool = False) -> dict[str, Any]:
        """Return the assistant's message to which the next item belongs."""
        self._end_system()
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == "assistant" and not self._reasoning:
            is_complete = last["content"] or "tool_calls" in last
            if not (begins_text and is_complete):
                return last
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        self._reasoning = []
        self.messages.append(message)
        return message


def _content_of(content: object, where: str) -> str:
    if isinstance(content, list):
        # a refusal has its text under its own name
        content = [
            {"type": "text", "text": part.get("refusal")}
            if isinstance(part, dict) and part.get("type") == "refusal"
            else part
            for part in content
        ]
    return joined_text(content, where, _TEXT, _ONLY_TEXT)


def _reasoning_of(item: Mapping[str, Any], where: str) -> str:
    """Return the text of a reasoning item. An encrypted one of another server has none, and is left out."""
    for name in ("content", "summary"):
        if parts := item.get(name):
            return joined_text(parts, f"{where}.{name}", _TEXT, _ONLY_TEXT)
    return ""
