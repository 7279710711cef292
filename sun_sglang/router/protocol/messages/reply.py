"""The objects of a message: itself, its blocks and its usage. Pure.

Their shapes are those of `anthropic.types`, with which the tests validate them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from sun_sglang.router.protocol.translation.steps import Call, Finish, Reasoning, Text, Usage, read_steps

_NO_USAGE = Usage(0, 0, 0, 0)
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def new_message(answer: Mapping[str, Any], usage: Usage) -> dict[str, Any]:
    """Return a message without content and end.

    Args:
        answer: a chat completion, or a chunk of one.
        usage: the token counts so far.
    """
    return {
        "id": f"msg_{answer.get('id') or 'unknown'}",
        "type": "message",
        "role": "assistant",
        "model": str(answer.get("model") or ""),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(usage),
    }


def whole_message(answer: Mapping[str, Any], stops: Collection[str]) -> dict[str, Any]:
    """Return the message for a whole chat completion.

    Args:
        answer: the chat completion.
        stops: the client's stop sequences.
    """
    content: list[dict[str, Any]] = []
    usage, end = _NO_USAGE, stop_of(None, stops, calls=False)
    for step in read_steps(answer):
        match step:
            case Reasoning(text):
                content.append({"type": "thinking", "thinking": text, "signature": ""})
            case Text(text):
                content.append({"type": "text", "text": text})
            case Call():
                block = {"type": "tool_use", "id": step.id, "name": step.name, "input": arguments_of(step.arguments)}
                content.append(block)
            case Finish():
                end = stop_of(step, stops, calls=any(block["type"] == "tool_use" for block in content))
            case Usage():
                usage = step
    return {**new_message(answer, usage), "content": content, **end}


def stop_of(finish: Finish | None, stops: Collection[str], *, calls: bool) -> dict[str, Any]:
    """Return why a message ended.

    Args:
        finish: the end of the chat completion; None if it has none.
        stops: the client's stop sequences.
        calls: whether the message calls a tool.
    """
    if finish is None:
        return {"stop_reason": "end_turn", "stop_sequence": None}
    if finish.reason == "stop" and finish.matched in stops:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.matched}
    reason = "tool_use" if calls and finish.reason == "stop" else _REASONS.get(finish.reason, "end_turn")
    return {"stop_reason": reason, "stop_sequence": None}


def usage_of(usage: Usage) -> dict[str, int]:
    """Return token counts. Anthropic's `input_tokens` are those that came from no cache."""
    return {
        "input_tokens": max(0, usage.prompt - usage.cached),
        "output_tokens": usage.completion,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": min(usage.cached, usage.prompt),
    }


def arguments_of(text: str) -> dict[str, Any]:
    """Return the arguments of a call as an object. Text that is no JSON object is the member `arguments`."""
    try:
        parsed = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"arguments": text}
