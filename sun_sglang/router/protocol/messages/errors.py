"""Errors in Anthropic's format. Pure."""

from __future__ import annotations

from typing import Any

import orjson

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
OVERFLOW = "context_length_exceeded"
# Claude's clients shorten a conversation when they find these words
_TOO_LONG = "prompt is too long"


def error_body(status: int, openai_body: bytes, request_id: str) -> bytes:
    """Return the body of an error response.

    Args:
        status: HTTP status.
        openai_body: the same error in OpenAI's format.
        request_id: of the request, which Anthropic's clients show.
    """
    parsed = orjson.loads(openai_body)
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else {}
    return orjson.dumps({**error_event(error, status), "request_id": request_id})


def error_event(error: object, status: int = 500) -> dict[str, Any]:
    """Return an error, which is also the event that ends a stream.

    Args:
        error: in OpenAI's format.
        status: the HTTP status that the error has, or would have.
    """
    members = error if isinstance(error, dict) else {"message": str(error)}
    message = str(members.get("message"))
    if members.get("code") == OVERFLOW and _TOO_LONG not in message.lower():
        message = f"{_TOO_LONG}: {message}"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
