"""The size of the text that a request contributes to its prompt, in bytes of UTF-8. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

# fields that SGLang passes to a chat template besides the messages (srt/entrypoints/openai/serving_chat.py)
_TEMPLATE_FIELDS = ("tools", "chat_template_kwargs", "reasoning_effort")


def text_bytes(text: str) -> int:
    """Return the bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def chat_bytes(body: Mapping[str, Any]) -> int:
    """Return the bytes of all text that a chat template may put into the prompt.

    This is every field of every message, and the other fields that the template receives. Objects and lists count as
    their JSON.

    Args:
        body: a checked body of /v1/chat/completions.
    """
    total = 0
    for message in body["messages"]:
        for value in message.values():
            if isinstance(value, str):
                total += len(value) if value.isascii() else len(value.encode())
            elif value is not None:
                total += len(orjson.dumps(value))
    for name in _TEMPLATE_FIELDS:
        if name in body:
            total += len(orjson.dumps(body[name]))
    return total
