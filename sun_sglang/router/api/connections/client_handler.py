"""aiohttp's handler of one client connection, with the router's own response to what is not valid HTTP."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from sun_sglang.router.api.connections.request_meter import MAX_HEADER_BYTES
from sun_sglang.router.api.responses import error_response
from sun_sglang.router.errors import ApiError, internal_error
from sun_sglang.router.observability.log import Log

_MOST_FIELDS = 128
HANDLER_SETTINGS: dict[str, Any] = {
    "access_log": None,
    # a kilobyte may decompress to a megabyte; SGLang does not decompress bodies either
    "auto_decompress": False,
    "max_line_size": MAX_HEADER_BYTES,
    "max_field_size": MAX_HEADER_BYTES,
    "max_headers": _MOST_FIELDS,
}


class ClientHandler(web.RequestHandler):
    """The handler.

    Args:
        server: aiohttp's server, which has the application.
        count: called with the reason for which a connection ends.
        log: reports exceptions that should not occur.
        error_headers: returns headers of an error for a request that no middleware has seen.
    """

    def __init__(
        self,
        server: web.Server,
        count: Callable[[str], None],
        log: Log,
        error_headers: Callable[[None], Mapping[str, str]],
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **HANDLER_SETTINGS)
        self._count_ended = count
        self._events = log
        self._error_headers = error_headers

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the last response of the connection. It contains nothing that the client sent, which may be a key.

        Args:
            request: the request, which is empty if no valid one arrived.
            status: aiohttp's choice of an HTTP status, which is not used.
            exc: the reason.
            message: aiohttp's text for it, which quotes the request and is not used.

        Raises:
            ConnectionError: a part of another response was sent.
        """
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the response was sent")
        if isinstance(exc, HttpProcessingError):
            self._count_ended("header_size" if isinstance(exc, LineTooLong) else "no_http")
            error = header_too_large() if isinstance(exc, LineTooLong) else _invalid_http()
        else:
            trace = "".join(traceback.format_exception(exc)) if exc is not None else message
            self._events.event("defect", path=request.path, trace=trace)
            error = internal_error()
        response = error_response(error)
        response.headers.update(self._error_headers(None))
        response.force_close()
        return response


def header_too_large() -> ApiError:
    """Return the error for a request whose header is too large."""
    text = f"the header, or the lines of a chunked body, are over {MAX_HEADER_BYTES >> 10} KiB together"
    return ApiError(431, text, code="header_too_large")


def _invalid_http() -> ApiError:
    text = (
        f"the request is not valid HTTP, repeats a header that may stand once, or has over {_MOST_FIELDS} header fields"
    )
    return ApiError(400, text, code="invalid_http")
