"""How much text of a request reaches its prompt, in bytes of UTF-8. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

# What SGLang gives a chat template besides the messages (srt/entrypoints/openai/serving_chat.py).
_TEMPLATE_FIELDS = ("tools", "chat_template_kwargs", "reasoning_effort")


def text_bytes(text: str) -> int:
    """Bytes of a text."""
    return len(text) if text.isascii() else len(text.encode())


def chat_bytes(body: Mapping[str, Any]) -> int:
    """Bytes of all that a chat template may put into the prompt: every field of every message, and what stands beside.

    Objects and lists count as their JSON.
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
