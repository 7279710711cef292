"""The objects of a response: itself, its items and its usage. Pure.

Their shapes are those of `openai.types.responses`, with which the tests validate them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from sun_sglang.router.protocol.overflow import CODE
from sun_sglang.router.protocol.translation.steps import Usage

# reasons for which OpenAI's API calls a response incomplete
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_UNFINISHED = (*_INCOMPLETE, "abort")


class ResponseEcho:
    """The part of a response that repeats the request.

    Args:
        settings: members of the response.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def response(
        self,
        head: Mapping[str, Any],
        status: str,
        output: Sequence[dict[str, Any]] = (),
        *,
        usage: Usage | None = None,
        finish: str = "",
        error: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a response.

        Args:
            head: `id`, `created_at` and `model`.
            status: OpenAI's status.
            output: the items.
            usage: the token counts; None while they are not known.
            finish: the chat completion's `finish_reason`; empty while the answer goes on.
            error: why the answer failed; None if it did not.
        """
        reason = _INCOMPLETE.get(finish)
        code = CODE if error is not None and error.get("code") == CODE else "server_error"
        return {
            **head,
            "object": "response",
            "status": status,
            "background": False,
            "error": None if error is None else {"code": code, "message": str(error.get("message"))},
            "incomplete_details": {"reason": reason} if reason else None,
            "output": list(output),
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            **self._settings,
        }


def final_status(finish: str) -> str:
    """Return the status of a response whose chat completion ended with a `finish_reason`."""
    return "incomplete" if finish in _UNFINISHED else "completed"


def message_item(id_: str, status: str, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return an item with text."""
    return {"type": "message", "id": id_, "status": status, "role": "assistant", "content": list(parts)}


def text_part(text: str, logprobs: bytes | bytearray = b"") -> dict[str, Any]:
    """Return the content of an item with text, with the logprobs of `steps.Text`."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs_json(logprobs)}


def logprobs_json(entries: bytes | bytearray) -> object:
    """Return a list of entries, which are JSON joined by commas, for a serialised object."""
    return orjson.Fragment(b"".join((b"[", entries, b"]"))) if entries else []


def reasoning_item(id_: str, status: str, text: str | None) -> dict[str, Any]:
    """Return an item with reasoning; without `text` it has just begun."""
    content = [] if text is None else [reasoning_part(text)]
    return {"type": "reasoning", "id": id_, "status": status, "summary": [], "content": content}


def reasoning_part(text: str) -> dict[str, Any]:
    """Return the content of an item with reasoning."""
    return {"type": "reasoning_text", "text": text}


def call_item(id_: str, status: str, call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Return an item with a call of a function.

    Args:
        id_: of the item.
        status: of the item.
        call_id: to which the client's `function_call_output` refers.
        name: of the function.
        arguments: as JSON.
    """
    return {
        "type": "function_call",
        "id": id_,
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
