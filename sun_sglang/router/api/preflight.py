"""Preflights of browsers (`OPTIONS`), and the headers by which a page may read responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Handler

from sun_sglang.router.api.routes import Route, RouteTable
from sun_sglang.router.auth.access import AccessRule
from sun_sglang.router.auth.cors import CrossOriginPolicy
from sun_sglang.router.errors import ApiError

# A page never calls endpoints that show or change the whole deployment.
_OF_PAGES: tuple[AccessRule, ...] = ("open", "key")


def preflight_routes(routes: Iterable[Route], policy: CrossOriginPolicy) -> tuple[Route, ...]:
    """Return a route for the preflights of each path that pages may call; none if no page may call any.

    Args:
        routes: the other routes of the application.
        policy: the pages that may call the router.
    """
    if not policy.is_enabled:
        return ()
    methods: dict[str, list[str]] = {}
    for route in routes:
        if route.access in _OF_PAGES:
            methods.setdefault(route.path, []).append(route.method)
    # a browser sends no key with a preflight
    return tuple(
        Route("OPTIONS", path, _preflight(policy, of_path), "open", cross_site=True)
        for path, of_path in methods.items()
    )


def cors_signal(
    table: RouteTable, policy: CrossOriginPolicy
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return a signal that adds CORS headers to the responses of each path that pages may call, errors included."""

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        if table.access_rule(request, table.find(request)) in _OF_PAGES:
            response.headers.update(policy.response_headers(request.headers.get("Origin")))

    return add_headers


def _preflight(policy: CrossOriginPolicy, methods: Iterable[str]) -> Handler:
    async def handle(http: web.Request) -> web.Response:
        origin = http.headers.get("Origin")
        if origin is None or "Access-Control-Request-Method" not in http.headers:
            return web.Response(status=204, headers={"Allow": ", ".join((*methods, "OPTIONS"))})
        if not policy.allows(origin):
            message = f"pages of `{origin}` may not call this router; list the origin under `router.cors`"
            raise ApiError(403, message, code="origin_not_allowed")
        asked = http.headers.get("Access-Control-Request-Headers", "")
        return web.Response(status=204, headers=policy.preflight_headers(methods, asked))

    return handle
