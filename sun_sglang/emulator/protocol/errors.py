"""The error replies of an emulated worker, in SGLang's five shapes.

    RefusalError                  a request that is not served
    ├── InvalidBodyError          FastAPI's validation: not JSON, or a field of the wrong type
    ├── InvalidValueError         a value that SGLang refuses
    ├── SchemaError               the schema of `/generate` refuses a sampling parameter
    ├── InternalError             an exception that SGLang does not catch: 500
    └── GenerationFailedError     the request was accepted and cannot be finished

After `entrypoints/http_server.py` and `entrypoints/openai/serving_base.py`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson


class RefusalError(Exception):
    """A request that is not served. `status` and `body` are the reply outside of a stream."""

    status = 400
    content_type = "application/json"

    def body(self) -> bytes:
        """Return the reply's body."""
        return orjson.dumps({"error": {"message": str(self)}})


class InvalidBodyError(RefusalError):
    """A body that is not JSON or has a field of the wrong type; FastAPI refuses it before SGLang's code runs.

    Args:
        kind: pydantic's error type.
        where: place in the request.
        problem: pydantic's message.
    """

    def __init__(self, kind: str, where: tuple[str | int, ...], problem: str) -> None:
        super().__init__(f"1 validation error:\n  {{'type': '{kind}', 'loc': {where}, 'msg': {problem!r}}}")

    def body(self) -> bytes:
        """Return the reply's body."""
        return orjson.dumps(flat_error(str(self), HTTPStatus.BAD_REQUEST.phrase, 400))


class InvalidValueError(RefusalError):
    """A value that SGLang refuses. `/generate` and the OpenAI endpoints reply in different shapes.

    Args:
        message: SGLang's message.
        endpoint: path of the endpoint.
    """

    def __init__(self, message: str, endpoint: str) -> None:
        self.endpoint = endpoint
        super().__init__(message)

    def body(self) -> bytes:
        """Return the reply's body."""
        if self.endpoint == "/generate":
            return super().body()
        return orjson.dumps(flat_error(str(self), "BadRequestError", 400))


class SchemaError(RefusalError):
    """A `/generate` body that its schema refuses, on SGLang versions that have one."""

    def body(self) -> bytes:
        """Return the reply's body."""
        return orjson.dumps({"error": str(self)})


class InternalError(RefusalError):
    """An exception that SGLang does not catch."""

    status = 500
    content_type = "text/plain"

    def body(self) -> bytes:
        """Return the reply's body."""
        return b"Internal Server Error"


class GenerationFailedError(RefusalError):
    """A request that was accepted and cannot be finished: its peer is gone, or it was aborted while it waited.

    Args:
        message: SGLang's message.
        status: HTTP status of the reply.
    """

    def __init__(self, message: str, status: int = 500) -> None:
        self.status = status
        super().__init__(message)

    def body(self) -> bytes:
        """Return the reply's body."""
        return orjson.dumps(flat_error(str(self), str(self.status), self.status))


def flat_error(message: str, kind: str, status: int) -> dict[str, Any]:
    """Return SGLang's error object, which is OpenAI's without the envelope.

    Args:
        message: the message.
        kind: the error's `type`.
        status: the error's `code`.
    """
    return {"object": "error", "message": message, "type": kind, "param": None, "code": status}
