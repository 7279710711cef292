"""The middlewares of every request: its id, its access, its connection's deadlines, and its error response."""

from __future__ import annotations

import asyncio
import traceback

from aiohttp import web
from aiohttp.typedefs import Handler

from sun_sglang.errors import RequestError
from sun_sglang.router.api.connections.connection_manager import ConnectionManager
from sun_sglang.router.api.connections.slow_readers import SlowReaderDetector
from sun_sglang.router.api.expectations import announce_reading
from sun_sglang.router.api.responses import error_response
from sun_sglang.router.api.routes import RouteTable
from sun_sglang.router.auth.access import AccessControl, current_key
from sun_sglang.router.auth.browser_guard import BrowserGuard
from sun_sglang.router.errors import ApiError, internal_error
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.observability.request_context import RequestContext, current_context
from sun_sglang.router.observability.request_id import (
    REQUEST_ID_HEADER,
    RandomBytes,
    choose_request_id,
    current_request_id,
)
from sun_sglang.router.protocol.messages.errors import error_body
from sun_sglang.router.protocol.request import MESSAGES_PATH, RESPONSES_PATH, Endpoint
from sun_sglang.router.serving.reporting.request_end import request_outcome
from sun_sglang.router.serving.service import SESSION_HEADER, TASK_HEADER

_GENERATION = frozenset({*Endpoint, RESPONSES_PATH, MESSAGES_PATH})
# a proxy before the router may read another one of several values
_SINGLE = ("Authorization", "X-API-Key", "Origin", TASK_HEADER, SESSION_HEADER)


class Middleware:
    """The middlewares of the application.

    Args:
        table: returns the access rule of a request.
        access: checks a request's key.
        browser_guard: refuses requests of foreign web pages; None where the router has keys.
        clients: the connections of clients.
        slow_readers: watches whether clients read their responses.
        metrics: counts errors, and requests whose task is not known yet.
        log: reports defects.
        max_body_mb: the limit of a body in MiB, for the error message.
    """

    def __init__(
        self,
        table: RouteTable,
        access: AccessControl,
        browser_guard: BrowserGuard | None,
        clients: ConnectionManager,
        slow_readers: SlowReaderDetector,
        metrics: Metrics,
        log: Log,
        max_body_mb: float,
    ) -> None:
        self._table = table
        self._access = access
        self._browser_guard = browser_guard
        self._clients = clients
        self._slow_readers = slow_readers
        self._metrics = metrics
        self._log = log
        self._max_body_mb = max_body_mb
        self._random_bytes = RandomBytes()

    @web.middleware
    async def track_connection(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Mark the request's connection as busy until the response is complete."""
        connection = self._clients.mark_busy(request)
        try:
            response = await handler(request)
            if connection is not None and connection.is_cut:
                response.force_close()
            return response
        finally:
            if connection is not None:
                self._clients.mark_waiting(connection)

    @web.middleware
    async def handle_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check a request's access, and turn every exception into an error response."""
        context = RequestContext()
        request_id = choose_request_id(request.headers.get(REQUEST_ID_HEADER), self._random_bytes)
        current_context.set(context)
        current_request_id.set(request_id)
        self._slow_readers.watch(request, context, request_id)
        try:
            self._admit(request)
            await announce_reading(request)
            return await handler(request)
        except ApiError as error:
            return self._refuse(request, error)
        except RequestError as e:
            return self._refuse(request, ApiError.of(e))
        except web.HTTPException as e:
            response = self._refuse(request, self._error_of(request, e))
            if isinstance(e, web.HTTPMethodNotAllowed):
                response.headers["Allow"] = ", ".join(sorted(e.allowed_methods))
            return response
        except web.RequestPayloadError as e:
            return self._refuse(request, ApiError(400, f"the body cannot be read: {e}", code="invalid_body"))
        except (ConnectionError, asyncio.CancelledError):
            self._count_disconnect(request)
            raise
        except Exception as e:
            self._log.event("defect", path=request.path, trace="".join(traceback.format_exception(e)))
            return self._refuse(request, internal_error())

    def _admit(self, request: web.Request) -> None:
        """Raise ApiError for a request that must not reach its handler."""
        for name in _SINGLE:
            if len(request.headers.getall(name, ())) > 1:
                raise ApiError(400, f"the header `{name}` is there more than once", code="duplicate_header")
        route = self._table.find(request)
        if self._browser_guard is not None:
            cross_site = route is None or route.cross_site
            self._browser_guard.check(request.method, request.path, request.headers, cross_site=cross_site)
        current_key.set(self._access.check(self._table.access_rule(request, route), request.headers))
        if (encoding := request.headers.get("Content-Encoding", "identity").lower()) not in ("identity", ""):
            message = f"a body in the encoding `{encoding}` is not supported; send it without `Content-Encoding`"
            raise ApiError(415, message, code="unsupported_encoding")
        if (request.content_length or 0) > request.client_max_size:
            raise self._body_too_large()

    def _error_of(self, request: web.Request, error: web.HTTPException) -> ApiError:
        match error:
            case web.HTTPRequestEntityTooLarge():
                return self._body_too_large()
            case web.HTTPNotFound():
                return ApiError(404, f"there is no {request.method} {request.path}", code="not_found")
            case web.HTTPMethodNotAllowed():
                allowed = ", ".join(sorted(error.allowed_methods))
                return ApiError(405, f"{request.path} takes {allowed}", code="method_not_allowed")
        return ApiError(error.status, error.reason)

    def _body_too_large(self) -> ApiError:
        return ApiError(413, f"the body is over {self._max_body_mb:g} MiB", code="body_too_large")

    def _count_disconnect(self, request: web.Request) -> None:
        """Count a client that left before its request was read: the service has not counted it."""
        context = current_context.get()
        if _is_generation(request) and not context.outcome_counted:
            self._metrics.requests.labels(context.task, "disconnected").inc()

    def _refuse(self, request: web.Request, error: ApiError) -> web.Response:
        if _is_generation(request):
            context = current_context.get()
            self._metrics.problems.labels(context.task, str(error.status)).inc()
            if not context.outcome_counted:
                self._metrics.requests.labels(context.task, request_outcome(error)).inc()
        return _error_response(request, error)


def _error_response(request: web.Request, error: ApiError) -> web.Response:
    response = error_response(error)
    if f"{request.path}/".startswith(MESSAGES_PATH + "/"):
        response.body = error_body(error.status, error.as_json(), current_request_id.get())
    return response


def _is_generation(request: web.Request) -> bool:
    return request.path.removesuffix("/") in _GENERATION


async def add_request_id(_: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id into its response's headers."""
    response.headers[REQUEST_ID_HEADER] = current_request_id.get()
