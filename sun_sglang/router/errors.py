"""Errors that a client receives, in OpenAI's format: as a response body or as an SSE event."""

from __future__ import annotations

import orjson

from sun_sglang.errors import RequestError
from sun_sglang.router.text import escape_surrogates, truncate

# bounds a message, which may quote a client's text, such as the name of an unknown task
_MOST_CHARACTERS = 4096
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable",
    504: "timeout",
}
RETRY_AFTER_S = 1


class ApiError(Exception):
    """An error response, raised by the part of the router that refuses or fails the request.

    Args:
        status: HTTP status.
        message: for the client, at most 4,096 characters.
        param: the request field at fault; None if no field is.
        code: a machine-readable code in OpenAI's style.
        retry_after: seconds after which the client may try again; None for one second with 429 and 503, and no retry
            with any other status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.status = status
        self.message = truncate(escape_surrogates(message), _MOST_CHARACTERS)
        self.param = None if param is None else truncate(escape_surrogates(param), _MOST_CHARACTERS)
        self.code = code
        self.retry_after = retry_after or (RETRY_AFTER_S if status in (429, 503) else None)
        super().__init__(self.message)

    @classmethod
    def of(cls, error: RequestError) -> ApiError:
        """Return the response to a request that was refused before dispatch."""
        return cls(error.status, error.message, param=error.param, code=error.code)

    def as_json(self) -> bytes:
        """Return the body: `{"error": {"message", "type", "param", "code"}}`, with `param` and `code` text or null."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        fields = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": fields})

    def as_event(self) -> bytes:
        """Return the server-sent event that ends a stream: its data is the body, as in OpenAI's API."""
        return b"data: " + self.as_json() + b"\n\n"


def internal_error() -> ApiError:
    """Return the error for a defect of the router itself."""
    return ApiError(500, "the router failed; its log has the details", code="internal_error")


def broken_stream_error(why: str, code: str = "stream_broken") -> ApiError:
    """Return the error that ends a stream after its first event."""
    return ApiError(502, f"the answer broke off: {why}", code=code)
