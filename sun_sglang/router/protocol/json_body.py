"""The JSON object of a request's body. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.json_size import MAX_CONTAINERS, MAX_STRINGS, is_too_large


def json_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        RequestError: 400, the body is no JSON object; 413, it has too many objects and lists, or strings.
    """
    if is_too_large(raw):
        raise too_large("the body")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise RequestError(400, f"the body is not valid JSON: {e}", code="invalid_json") from e
    if not isinstance(body, dict):
        raise RequestError(400, "the body must be a JSON object", code="invalid_json")
    return body


def too_large(where: str, param: str | None = None) -> RequestError:
    """Return the error for JSON with more objects and lists, or strings, than a request may have.

    Args:
        where: the place of the JSON, for the message.
        param: the field; None if it is the body.
    """
    message = f"{where} has over {MAX_CONTAINERS:,} objects and lists, or over {MAX_STRINGS:,} strings; send fewer"
    return RequestError(413, message, param=param, code="body_too_large")
