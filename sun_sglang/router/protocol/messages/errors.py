"""Errors in Anthropic's format. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sun_sglang.router.protocol.overflow import CODE, answer_overflow

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# OpenAI's types with another name in Anthropic's API; an error in a stream has no status
_STREAM_TYPES = {"service_unavailable": "overloaded_error", "timeout": "timeout_error", "server_error": "api_error"}
# Claude's clients shorten a conversation when they find these words
_TOO_LONG = "prompt is too long"


def error_body(status: int, openai_body: bytes, request_id: str) -> bytes:
    """Return the body of an error response.

    Args:
        status: HTTP status.
        openai_body: the same error in OpenAI's format.
        request_id: of the request, which Anthropic's clients show.
    """
    error = orjson.loads(openai_body)["error"]
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return orjson.dumps({**_error(kind, error), "request_id": request_id})


def error_event(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event that ends a stream with an error, which is given in OpenAI's format."""
    kind = str(error.get("type") or "api_error")
    return _error(_STREAM_TYPES.get(kind, kind if kind in _TYPES.values() else "api_error"), error)


def _error(kind: str, error: Mapping[str, Any]) -> dict[str, Any]:
    message = str(error.get("message"))
    if error.get("code") == CODE and _TOO_LONG not in message.lower():
        message = _overflow(message)
    return {"type": "error", "error": {"type": kind, "message": message}}


def _overflow(message: str) -> str:
    """Return Anthropic's text. With too large a `max_tokens` alone, clients read its numbers and send a smaller one."""
    if (over := answer_overflow(message)) is None:
        return f"{_TOO_LONG}: {message}"
    numbers = f"{over.prompt} + {over.answer} > {over.context}"
    fix = "decrease input length or `max_tokens` and try again"
    return f"input length and `max_tokens` exceed context limit: {numbers}, {fix}"
