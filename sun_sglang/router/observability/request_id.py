"""The id of a request, by which a client, the logs and a trace know it."""

from __future__ import annotations

import re
from contextvars import ContextVar

from sun_sglang.router.observability.randomness import Randomness

REQUEST_ID_HEADER = "X-Request-Id"
# What is logged while a request is handled is logged under its id, whichever task of the loop it happens in.
current_request: ContextVar[str] = ContextVar("current_request", default="")
_GIVEN = re.compile(r"[\x21-\x7e]{1,128}")


def request_id(given: str | None, randomness: Randomness) -> str:
    """The client's id, if it can stand in a header and a log line; else a new one."""
    return given if given is not None and _GIVEN.fullmatch(given) else randomness.take(16).hex()
