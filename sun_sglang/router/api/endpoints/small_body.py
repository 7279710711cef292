"""Bodies of requests that are commands, and not prompts."""

from __future__ import annotations

from aiohttp import web

from sun_sglang.router.auth.browser_guard import require_json
from sun_sglang.router.errors import ApiError

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
