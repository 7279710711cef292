"""Preflights of browsers (`OPTIONS`), and the headers by which a page may read responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from sun_sglang.router.api.routes import Route, RouteTable
from sun_sglang.router.auth.access import AccessRule
from sun_sglang.router.auth.browser_guard import BrowserGuard
from sun_sglang.router.auth.cors import CrossOriginPolicy
from sun_sglang.router.errors import ApiError

# A page never calls endpoints that show or change the whole deployment.
_OF_PAGES: tuple[AccessRule, ...] = ("open", "key")


def preflight_routes(
    routes: Iterable[Route], policy: CrossOriginPolicy, guard: BrowserGuard | None
) -> tuple[Route, ...]:
    """Return a route for the preflights of each path that pages may call; none if no page may call any.

    Args:
        routes: the other routes of the application.
        policy: the pages that may call the router.
        guard: judges the request that a preflight announces; None where the router has keys.
    """
    if not policy.is_enabled:
        return ()
    paths: dict[str, list[Route]] = {}
    for route in routes:
        if route.access in _OF_PAGES:
            paths.setdefault(route.path, []).append(route)
    # a browser sends no key with a preflight
    return tuple(
        Route("OPTIONS", path, _preflight(policy, guard, of_path), "open", cross_site=True)
        for path, of_path in paths.items()
    )


def cors_signal(
    table: RouteTable, policy: CrossOriginPolicy
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return a signal that adds CORS headers to the responses of each path that pages may call, errors included."""

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        if table.access_rule(request, table.find(request)) in _OF_PAGES:
            response.headers.update(policy.response_headers(request.headers.get("Origin")))

    return add_headers


def _preflight(policy: CrossOriginPolicy, guard: BrowserGuard | None, of_path: Sequence[Route]) -> Handler:
    async def handle(http: web.Request) -> web.Response:
        origin, asked = http.headers.get("Origin"), http.headers.get("Access-Control-Request-Method")
        methods = [route.method for route in of_path]
        if origin is None or asked is None:
            return web.Response(status=204, headers={"Allow": ", ".join((*methods, "OPTIONS"))})
        if not policy.allows(origin):
            message = f"pages of `{origin}` may not call this router; list the origin under `router.cors`"
            raise ApiError(403, message, code="origin_not_allowed")
        if guard is not None:
            refused = {
                route.method: guard.refusal(route.method, http.path, http.headers, cross_site=route.cross_site)
                for route in of_path
            }
            if (error := refused.get(asked)) is not None:
                raise error
            methods = [method for method in methods if refused[method] is None]
        names = http.headers.get("Access-Control-Request-Headers", "")
        return web.Response(status=204, headers=policy.preflight_headers(methods, names))

    return handle
