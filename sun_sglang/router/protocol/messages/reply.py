"""The objects of a message: itself, its blocks and its usage. Pure.

Their shapes are those of `anthropic.types`, with which the tests validate them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from sun_sglang.router.protocol.json_size import is_too_large
from sun_sglang.router.protocol.nesting import is_text_too_deep
from sun_sglang.router.protocol.translation.interface import AnswerAbortedError
from sun_sglang.router.protocol.translation.reading import ADDED_DEPTH
from sun_sglang.router.protocol.translation.step_order import Arguments, Call, ordered_steps
from sun_sglang.router.protocol.translation.steps import Finish, Reasoning, Text, Usage, read_head

# Anthropic's API has no reason for it: a client must not take a part of an answer for the whole
ABORTED = "the answer was aborted"
# levels of a request around the arguments of a call: a client can send each answer back
_LEVELS_AROUND = ADDED_DEPTH + 5
_Block = tuple[dict[str, Any], list[str]]
_NO_USAGE = Usage(0, 0, 0, 0)
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def new_message(answer: Mapping[str, Any], usage: Usage) -> dict[str, Any]:
    """Return a message without content and end.

    Args:
        answer: a chat completion, or a chunk of one.
        usage: the token counts so far.
    """
    head = read_head(answer)
    return {
        "id": f"msg_{head.id}",
        "type": "message",
        "role": "assistant",
        "model": head.model,
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

    Raises:
        BadReplyError: it is not an answer, or too long.
        AnswerAbortedError: the client aborted it.
    """
    message = new_message(answer, _NO_USAGE)
    blocks: list[_Block] = []
    finish: Finish | None = None
    for step in ordered_steps(answer):
        match step:
            case Reasoning(text):
                _block(blocks, {"type": "thinking", "thinking": "", "signature": ""}).append(text)
            case Text(text) if text:
                _block(blocks, {"type": "text", "text": ""}).append(text)
            case Call(id_, name):
                blocks.append((new_call(id_, name, message["id"], len(blocks)), []))
            case Arguments(text):
                blocks[-1][1].append(text)
            case Finish():
                finish = step
            case Usage():
                message["usage"] = usage_of(step)
    if finish is not None and finish.reason == "abort":
        raise AnswerAbortedError(ABORTED)
    content = [_completed(block, "".join(texts)) for block, texts in blocks]
    calls = any(block["type"] == "tool_use" for block in content)
    return {**message, "content": content, **stop_of(finish, stops, calls=calls)}


def new_call(id_: str, name: str, message_id: str, index: int) -> dict[str, Any]:
    """Return a block with a call without its input.

    Args:
        id_: the worker's id of the call; empty for one made of the next two.
        name: the function.
        message_id: id of the message.
        index: the block's position in it.
    """
    return {"type": "tool_use", "id": id_ or f"toolu_{message_id}_{index}", "name": name, "input": {}}


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


def _block(blocks: list[_Block], new: dict[str, Any]) -> list[str]:
    """Return the texts of the last block, which is a new one if the last has another type."""
    if not blocks or blocks[-1][0]["type"] != new["type"]:
        blocks.append((new, []))
    return blocks[-1][1]


def _completed(block: dict[str, Any], text: str) -> dict[str, Any]:
    if block["type"] == "tool_use":
        return {**block, "input": arguments_of(text)}
    return {**block, block["type"]: text}


def arguments_of(text: str) -> dict[str, Any]:
    """Return the arguments of a call as an object.

    Text that is none, or that no request could have (too deep, too large), is the member `arguments`.
    """
    try:
        refused = is_too_large(text.encode()) or is_text_too_deep(text, _LEVELS_AROUND)
        parsed = None if refused else orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"arguments": text}
