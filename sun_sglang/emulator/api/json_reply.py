"""JSON replies of the emulated worker's handlers."""

from __future__ import annotations

import orjson
from aiohttp import web


def json_reply(data: object, status: int = 200) -> web.Response:
    """Return a response with a JSON body."""
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")
