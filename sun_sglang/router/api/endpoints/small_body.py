"""Bodies of requests that are commands, and not prompts."""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web
from pydantic import ValidationError

from sun_sglang.router.auth.browser_guard import require_json
from sun_sglang.router.errors import ApiError
from sun_sglang.strict import Strict, first_invalid

M = TypeVar("M", bound=Strict)

# a worker's entry in the fleet file has a few hundred
MAX_BYTES = 1 << 16


async def read_small(http: web.Request) -> bytes:
    """Return the body of a request, which must be JSON: one of 32 MiB would take seconds of the event loop to parse.

    Raises:
        ApiError: 400, another content type; 413, the body is over `MAX_BYTES`.
    """
    require_json(http)
    if (http.content_length or 0) <= MAX_BYTES and len(raw := await http.read()) <= MAX_BYTES:
        return raw
    message = f"the body of {http.method} {http.path} may have {MAX_BYTES >> 10} KiB"
    raise ApiError(413, message, code="body_too_large")


async def read_model(http: web.Request, model: type[M], *, empty: str = "") -> M:
    """Return the body of a request as a model.

    Args:
        http: the request.
        model: its fields are the only ones that the body may have.
        empty: the error for a body that is no object, or has no field; empty where the model decides.

    Raises:
        ApiError: as `read_small` raises it; 400, the body is not valid, with its first wrong field.
    """
    raw = await read_small(http)
    try:
        found = model.model_validate_json(raw)
    except ValidationError as e:
        field = first_invalid(e, model)
        where = field.where or "the body"
        message = empty if empty and not field.where else field.describe("the body")
        raise ApiError(400, message, param=where, code="invalid_change") from e
    if empty and not found.model_fields_set:
        raise ApiError(400, empty, param="the body", code="invalid_change")
    return found
