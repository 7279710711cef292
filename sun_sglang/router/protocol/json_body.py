"""The JSON object of a request's body. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from sun_sglang.errors import RequestError


def json_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        RequestError: 400, the body is no JSON object.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise RequestError(400, f"the body is not valid JSON: {e}", code="invalid_json") from e
    if not isinstance(body, dict):
        raise RequestError(400, "the body must be a JSON object", code="invalid_json")
    return body
