"""The route table: every endpoint, with the handler and the access rule in one row.

To add an endpoint, write its handler in the module that it belongs to and add a row to `route_table`. A row without an
access rule cannot be constructed, and the application serves nothing but the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from sun_sglang.router.api.endpoints.admin import AdminHandlers
from sun_sglang.router.api.endpoints.generation import GenerationHandlers
from sun_sglang.router.api.endpoints.health import HealthHandlers
from sun_sglang.router.api.endpoints.info import InfoHandlers
from sun_sglang.router.api.endpoints.metrics_page import MetricsPage
from sun_sglang.router.api.endpoints.task_admin import TaskHandlers
from sun_sglang.router.api.endpoints.tasks_page import TasksPage
from sun_sglang.router.api.endpoints.tokens import TokenHandlers
from sun_sglang.router.api.expectations import keep_expectation
from sun_sglang.router.auth.access import AccessRule
from sun_sglang.router.protocol.messages.request import MessageTranslation
from sun_sglang.router.protocol.request import MESSAGES_PATH, RESPONSES_PATH, Endpoint
from sun_sglang.router.protocol.responses.request import ResponseTranslation

_STRICTNESS: tuple[AccessRule, ...] = ("open", "key", "metrics", "admin")


class Route(NamedTuple):
    """One endpoint.

    Attributes:
        method: the HTTP method; a row for GET serves HEAD too.
        path: the path, with variable parts as aiohttp writes them (`/workers/{name}`).
        handler: serves the request.
        access: which requests are let in where the router has keys.
        cross_site: a foreign web page may cause the request where the router has no keys: the request changes nothing,
            or its handler requires a content type that a page cannot send.
    """

    method: str
    path: str
    handler: Handler
    access: AccessRule
    cross_site: bool = False


def route_table(
    generation: GenerationHandlers,
    tokens: TokenHandlers,
    info: InfoHandlers,
    health: HealthHandlers,
    admin: AdminHandlers,
    task_admin: TaskHandlers,
    tasks: TasksPage,
    metrics: MetricsPage,
) -> tuple[Route, ...]:
    """Return every endpoint of the router.

    Args:
        generation: handlers of requests for text, and of their aborts.
        tokens: handlers of requests for tokens and their number.
        info: handlers of requests about models, workers and caches.
        health: handlers of probes.
        admin: handlers that show and change workers and pools.
        task_admin: handlers that change tasks.
        tasks: the page `/tasks`.
        metrics: the page `/metrics`.
    """
    responses = generation.endpoint(Endpoint.CHAT, ResponseTranslation)
    messages = generation.endpoint(Endpoint.CHAT, MessageTranslation)
    return (
        *(Route("POST", endpoint, generation.endpoint(endpoint), "key", cross_site=True) for endpoint in Endpoint),
        Route("PUT", Endpoint.GENERATE, generation.endpoint(Endpoint.GENERATE), "key", cross_site=True),
        Route("POST", RESPONSES_PATH, responses, "key", cross_site=True),
        Route("POST", MESSAGES_PATH, messages, "key", cross_site=True),
        Route("POST", MESSAGES_PATH + "/count_tokens", tokens.count, "key", cross_site=True),
        *(Route("POST", path, tokens.tokenize, "key", cross_site=True) for path in ("/tokenize", "/v1/tokenize")),
        *(Route("POST", path, tokens.detokenize, "key", cross_site=True) for path in ("/detokenize", "/v1/detokenize")),
        Route("POST", "/abort_request", generation.abort, "key"),
        Route("GET", "/v1/models", info.models, "key", cross_site=True),
        Route("GET", "/v1/models/{model:.+}", info.model, "key", cross_site=True),
        Route("GET", "/model_info", info.model_info, "key", cross_site=True),
        Route("GET", "/get_model_info", info.model_info, "key", cross_site=True),
        Route("GET", "/livez", health.live, "open", cross_site=True),
        *(Route("GET", path, health.ready, "open", cross_site=True) for path in ("/readyz", "/ready", "/ping")),
        Route("GET", "/health", health.health, "open", cross_site=True),
        Route("GET", "/health_generate", info.health_generate, "key"),
        Route("GET", "/metrics", metrics.get, "metrics", cross_site=True),
        Route("GET", "/server_info", info.server_info, "admin", cross_site=True),
        Route("GET", "/get_server_info", info.server_info, "admin", cross_site=True),
        Route("GET", "/flush_cache", info.flush_cache, "admin"),
        Route("POST", "/flush_cache", info.flush_cache, "admin"),
        Route("GET", "/tasks", tasks.get, "admin", cross_site=True),
        Route("POST", "/tasks", task_admin.add, "admin"),
        Route("PUT", "/tasks/{name:.+}", task_admin.change, "admin"),
        Route("DELETE", "/tasks/{name:.+}", task_admin.remove, "admin"),
        Route("GET", "/workers", admin.workers, "admin", cross_site=True),
        Route("POST", "/workers", admin.add_worker, "admin"),
        Route("POST", "/workers/batch", admin.add_workers, "admin"),
        Route("POST", "/workers/{name}/drain", admin.drain, "admin"),
        Route("POST", "/workers/{name}/resume", admin.resume, "admin"),
        Route("DELETE", "/workers/{name}", admin.remove_worker, "admin"),
        Route("POST", "/pools", admin.add_pool, "admin"),
        Route("PUT", "/pools/{name}", admin.set_pool_size, "admin"),
        Route("DELETE", "/pools/{name}", admin.remove_pool, "admin"),
    )


class RouteTable:
    """The routes of one application.

    Attributes:
        routes: every row.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._registered: dict[web.AbstractRoute, Route] = {}
        self._strictest = _strictest_rules(self.routes)

    def register(self, app: web.Application) -> None:
        """Add every route to an application, with and without a slash at the end of its path."""
        for route in self.routes:
            # the path with a slash first: `{name:.+}` matches the slash too
            for path in (route.path + "/", route.path):
                for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                    added = app.router.add_route(method, path, route.handler, expect_handler=keep_expectation)
                    self._registered[added] = route

    def find(self, request: web.Request) -> Route | None:
        """Return the route that a request matched; None for one that ends with 404 or 405."""
        return self._registered.get(request.match_info.route)

    def access_rule(self, request: web.Request, route: Route | None) -> AccessRule:
        """Return the rule for a request.

        A request without a route has the strictest rule of the routes whose path begins with the same segment, and at
        least `key`, so that a client without access cannot find out from the errors which paths exist.

        Args:
            request: any request.
            route: the route that it matched.
        """
        return route.access if route is not None else self._strictest.get(_first_segment(request.path), "key")


def _strictest_rules(routes: Iterable[Route]) -> Mapping[str, AccessRule]:
    strictest: dict[str, AccessRule] = {}
    for route in routes:
        segment = _first_segment(route.path)
        strictest[segment] = max(strictest.get(segment, "key"), route.access, key=_STRICTNESS.index)
    return strictest


def _first_segment(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""
