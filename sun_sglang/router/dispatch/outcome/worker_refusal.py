"""A worker's refusal of a request, in the router's own error format. Pure.

SGLang's formats differ by endpoint, version and moment: `{"object": "error", "message": ...}`, `{"error": {...}}`,
`{"error": "..."}`, FastAPI's `{"detail": ...}`, an event of a stream, an abort inside a 200. Clients receive one.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from sun_sglang.router.dispatch.legs.leg_bodies import Leg
from sun_sglang.router.dispatch.outcome.worker_message import for_client
from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.overflow import CODE, is_overflow, with_phrase
from sun_sglang.router.protocol.worker_replies import error_code, error_fields, error_message

_MOST_CHARACTERS = 4096


def refusal(status: int, message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error for a request that a worker refused.

    Args:
        status: HTTP status, 400 to 499.
        message: the worker's.
        param: the field at fault; None if the worker names none.
        code: the worker's code in OpenAI's style; None if it has none.
    """
    text, named = for_client(message)
    if is_overflow(text):
        return ApiError(status, with_phrase(text), param=param or named, code=CODE)
    return ApiError(status, text, param=param or named, code=code)


def refusal_of(leg: Leg, status: int, body: bytes) -> ApiError:
    """Return the error for a request that a worker refused with this body, in any of SGLang's formats."""
    given = error_fields(body)
    message = _text(given, "detail") or error_message(body, _MOST_CHARACTERS).strip() or f"refused by the {leg} worker"
    return refusal(status, message, param=_text(given, "param"), code=_text(given, "code"))


def event_error(data: bytes) -> ApiError:
    """Return the error that ends a stream, from the data of the decode worker's error event."""
    status = error_code(data)
    if status is not None and 400 <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return refusal_of("decode", status, data)
    message = for_client(error_message(data, _MOST_CHARACTERS)).text
    return ApiError(502, f"the answer broke off: the decode worker failed: {message}", code="stream_broken")


def _text(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    return value if isinstance(value, str) and value else None
