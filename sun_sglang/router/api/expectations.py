"""Requests with the header `Expect`: a client sends the body after the router has announced that it will read it.

aiohttp answers the header before any middleware runs, with a `100 Continue` to requests that are then refused. It
refuses other expectations with a reply that repeats the header, and fails where the header holds bytes that are not
text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from sun_sglang.router.api.responses import error_response
from sun_sglang.router.errors import ApiError

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def refuse_other_expectations(handle: _Handle) -> _Handle:
    """Return a handler of all requests that refuses each `Expect` but `100-continue`, and passes on the rest."""

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "100-continue").lower() == "100-continue":
            return await handle(request)
        error = ApiError(417, "the header `Expect` may only be `100-continue`", code="expectation_failed")
        response = error_response(error)
        # no middleware has seen the request, so its connection is not used again
        response.force_close()
        return response

    return refuse


async def keep_expectation(_: web.Request) -> None:
    """Answer nothing yet: the middleware does, once the request is let in."""


async def announce_reading(request: web.Request) -> None:
    """Answer `Expect: 100-continue` of a request whose body will be read."""
    if "Expect" not in request.headers or request.version < (1, 1) or request.content.is_eof():
        return
    # aiohttp has answered a request without a route
    if request.match_info.http_exception is None:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # these bytes are not part of the response
        request.writer.output_size = 0
