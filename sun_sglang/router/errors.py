"""The one shape in which the router reports a problem: OpenAI's, as a body, as an SSE event, as a log-friendly pair."""

from __future__ import annotations

from typing import Any

import orjson

from sun_sglang.errors import RequestError
from sun_sglang.router.text import escape_surrogates, truncate

# A message may quote what a client sent, such as the name of a task that does not exist.
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
    """An answer that is no result.

    Attributes:
        status: HTTP status.
        message: for the client; cut after 4,096 characters.
        param: the request field at fault, if one is.
        code: a machine-readable code in OpenAI's style.
        body: a worker's own error body, passed on as it is; None to build one from the message.
        retry_after: seconds after which the client may try again, where that makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        body: bytes | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.status = status
        self.message = truncate(escape_surrogates(message), _MOST_CHARACTERS)
        self.param = None if param is None else truncate(escape_surrogates(param), _MOST_CHARACTERS)
        self.code = code
        self.body = body
        self.retry_after = retry_after or (RETRY_AFTER_S if status in (429, 503) else None)
        super().__init__(self.message)

    @classmethod
    def of(cls, error: RequestError) -> ApiError:
        """The answer to a request that was refused before dispatch."""
        return cls(error.status, error.message, param=error.param, code=error.code)

    def as_json(self) -> bytes:
        """The body: `{"error": {"message", "type", "param", "code"}}`, or the worker's own."""
        return self.body if self.body is not None else orjson.dumps({"error": self._fields()})

    def as_event(self) -> bytes:
        """A server-sent event that ends a stream which cannot go on; SGLang's clients read `error.message`."""
        return b"data: " + orjson.dumps({"error": self._fields() | {"code": self.code or self.status}}) + b"\n\n"

    def _fields(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}


def internal_error() -> ApiError:
    """The answer where the router itself is at fault."""
    return ApiError(500, "the router failed; its log has the details", code="internal_error")


def broken_stream_error(why: str) -> ApiError:
    """The answer in the middle of a stream that cannot go on."""
    return ApiError(502, f"the answer broke off: {why}", code="stream_broken")
