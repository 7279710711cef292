"""How an emulated worker says no: SGLang's five error shapes (entrypoints/http_server.py, openai/serving_base.py)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson


class RefusalError(Exception):
    """A request that is not served. `status` and `body` are what is answered outside of a stream."""

    status = 400
    content_type = "application/json"

    def body(self) -> bytes:
        """The reply's body."""
        return orjson.dumps({"error": {"message": str(self)}})


class BrokenBodyError(RefusalError):
    """Not JSON, or not of the right types: FastAPI's validation, before SGLang sees it."""

    def __init__(self, kind: str, where: tuple[str | int, ...], problem: str) -> None:
        super().__init__(f"1 validation error:\n  {{'type': '{kind}', 'loc': {where}, 'msg': {problem!r}}}")

    def body(self) -> bytes:
        """The reply's body."""
        return orjson.dumps(flat_error(str(self), HTTPStatus.BAD_REQUEST.phrase, 400))


class BadValueError(RefusalError):
    """A value that SGLang refuses; /generate and the OpenAI endpoints say so in different shapes."""

    def __init__(self, message: str, endpoint: str) -> None:
        self.endpoint = endpoint
        super().__init__(message)

    def body(self) -> bytes:
        """The reply's body."""
        if self.endpoint == "/generate":
            return super().body()
        return orjson.dumps(flat_error(str(self), "BadRequestError", 400))


class ContractError(RefusalError):
    """A `/generate` body that is not as its schema says, on versions of SGLang that check it."""

    def body(self) -> bytes:
        """The reply's body."""
        return orjson.dumps({"error": str(self)})


class InternalError(RefusalError):
    """What SGLang does not catch."""

    status = 500
    content_type = "text/plain"

    def body(self) -> bytes:
        """The reply's body."""
        return b"Internal Server Error"


class FailedError(RefusalError):
    """A request that was taken and could not be finished: its peer is gone, or an abort reached it while it waited."""

    def __init__(self, message: str, status: int = 500) -> None:
        self.status = status
        super().__init__(message)

    def body(self) -> bytes:
        """The reply's body."""
        return orjson.dumps(flat_error(str(self), str(self.status), self.status))


def flat_error(message: str, kind: str, status: int) -> dict[str, Any]:
    """SGLang's error object, which is OpenAI's without its envelope."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": status}
