"""JSON responses."""

from __future__ import annotations

import orjson
from aiohttp import web

from sun_sglang.router.errors import ApiError


def json_response(body: object, status: int = 200) -> web.Response:
    """Return a response with a JSON body."""
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def error_response(error: ApiError) -> web.Response:
    """Return the response for an error, with `Retry-After` where the client may try again."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return web.Response(body=error.as_json(), status=error.status, content_type="application/json", headers=headers)
