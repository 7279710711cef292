"""JSON bodies and the types of their fields, with the errors of SGLang's FastAPI validation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sun_sglang.emulator.protocol.errors import InvalidBodyError


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        InvalidBodyError: the body is not JSON, or not an object.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise InvalidBodyError("json_invalid", ("body", e.pos), "JSON decode error") from e
    if not isinstance(body, dict):
        raise InvalidBodyError("dict_type", ("body",), "Input should be a dictionary")
    return body


def optional_integer(body: Mapping[str, Any], name: str) -> int | None:
    """Return a field as an integer; None if it is absent or null.

    Raises:
        InvalidBodyError: the value is not an integer.
    """
    value = body.get(name)
    if value is None:
        return None
    try:
        return int(value)
    except (TypeError, ValueError) as e:
        raise InvalidBodyError("int_parsing", ("body", name), "Input should be a valid integer") from e


def require_field(body: Mapping[str, Any], name: str) -> str:
    """Return a field that must be present and text.

    Raises:
        InvalidBodyError: the field is absent or not text.
    """
    if name not in body:
        raise InvalidBodyError("missing", ("body", name), "Field required")
    return require_string(body[name], name)


def require_string(value: object, name: str) -> str:
    """Return a value that must be text; `name` is its field.

    Raises:
        InvalidBodyError: the value is not text.
    """
    if not isinstance(value, str):
        raise InvalidBodyError("string_type", ("body", name), "Input should be a valid string")
    return value
