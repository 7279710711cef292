"""The route table: each row's access rule is what a request meets, and nothing is served beside the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from sun_sglang.router.api.routes import Route, RouteTable
from sun_sglang.router.auth.access import AccessRule
from tests.unit.router.conftest import SMALL, SUN, Start, System

NAMES = ("user", "watcher", "admin")
KEYS = {name: f"{name}-key-0123456789" for name in NAMES}
# which keys a rule lets in, and the error of the others; None is a request without a key
LET_IN: dict[AccessRule, tuple[str | None, ...]] = {
    "open": (None, *NAMES),
    "key": NAMES,
    "metrics": ("watcher", "admin"),
    "admin": ("admin",),
}
ADMIN_ROUTES = {
    *(("GET", "/tasks"), ("POST", "/tasks"), ("PUT", "/tasks/{name:.+}"), ("DELETE", "/tasks/{name:.+}")),
    *(("GET", "/workers"), ("POST", "/workers"), ("POST", "/workers/batch")),
    *(("POST", "/workers/{name}/drain"), ("POST", "/workers/{name}/resume"), ("DELETE", "/workers/{name}")),
    *(
        ("POST", "/pools"),
        ("PUT", "/pools/{name}"),
        ("DELETE", "/pools/{name}"),
        ("GET", "/server_info"),
        ("GET", "/get_server_info"),
    ),
    *(("GET", "/flush_cache"), ("POST", "/flush_cache")),
}

ANTHROPIC_CODES = {"authentication_error": "invalid_api_key", "permission_error": "admin_key_required"}


@pytest.fixture
async def locked(start: Start, tmp_path: Path) -> System:
    specs: list[dict[str, Any]] = [{"name": name, "key": key} for name, key in KEYS.items()]
    specs[1]["metrics"] = specs[2]["admin"] = True
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": specs}))
    system: System = await start(SUN, SMALL, router={"api_keys": str(file)})
    return system


async def ask(system: System, method: str, path: str, name: str | None) -> tuple[int, str | None]:
    headers = {"Authorization": f"Bearer {KEYS[name]}"} if name else {}
    json = {} if method in ("POST", "PUT") else None
    async with system.client.request(method, path, headers=headers, json=json) as r:
        body = await r.read()
        error = (await r.json())["error"] if body and r.status in (401, 403) else {"code": None}
        # Anthropic's errors have a type and no code
        return r.status, error["code"] if "code" in error else ANTHROPIC_CODES[error["type"]]


async def test_every_route_requested_with_each_key_follows_its_access_rule(locked: System) -> None:
    for route in locked.router.routes.routes:
        path = route.path.replace("{name}", "none").replace("{name:.+}", "none").replace("{model:.+}", "math")
        for name in (None, *NAMES):
            status, code = await ask(locked, route.method, path, name)
            if name in LET_IN[route.access]:
                assert status not in (401, 403), (route, name)
            else:
                refusal = (401, "invalid_api_key") if name is None else (403, "admin_key_required")
                assert (status, code) == refusal, (route, name)


async def test_path_with_a_slash_at_its_end_is_the_path_without(small: System) -> None:
    for route in small.router.routes.routes:
        path = route.path.replace("{name}", "none").replace("{name:.+}", "none").replace("{model:.+}", "math")
        body = {} if route.method in ("POST", "PUT") else None
        answers = []
        for asked in (path, path + "/"):
            async with small.client.request(route.method, asked, json=body, allow_redirects=False) as r:
                answers.append((r.status, r.content_type))
        assert answers[0] == answers[1], route
        assert answers[0][0] not in (301, 307, 308), route
    assert (await small.post("/generate/", {"model": "math", "text": "hi"}))[0] == 200
    assert small.metric("sun_requests_total", task="math", outcome="ok") == 1
    assert (await small.post("/generate//", {"model": "math", "text": "hi"}))[0] == 404


async def test_request_with_a_slash_that_is_refused_is_counted(small: System) -> None:
    assert (await small.post("/v1/chat/completions/", {"model": "none"}))[0] == 404
    assert small.metric("sun_requests_total", task="unknown", outcome="refused") == 1


async def test_access_rules_of_the_table_are_those_of_the_documentation(small: System) -> None:
    routes = small.router.routes.routes
    assert {(r.method, r.path) for r in routes if r.access == "admin"} == ADMIN_ROUTES
    probes = ["/livez", "/readyz", "/ready", "/ping", "/health"]
    assert [r.path for r in routes if r.access == "open"] == probes
    assert [r.path for r in routes if r.access == "metrics"] == ["/metrics"]


async def test_application_serves_nothing_beside_the_table(small: System) -> None:
    app = web.Application()
    small.router.routes.register(app)
    served = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    running = small.router.application.router
    assert {(route.method, route.resource.canonical) for route in running.routes() if route.resource} == served


def test_route_without_an_access_rule_cannot_be_constructed() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    with pytest.raises(TypeError, match="access"):
        Route("GET", "/new", handler)


@pytest.mark.parametrize(
    ("method", "path", "name", "status"),
    [
        ("GET", "/nowhere", None, 401),
        ("GET", "/nowhere", "user", 404),
        ("GET", "/workers/none/none", "user", 403),
        ("GET", "/workers/none/none", "admin", 404),
        ("PATCH", "/pools", "user", 403),
        ("PATCH", "/pools", "admin", 405),
        ("POST", "/health", None, 401),
        ("POST", "/health", "user", 405),
        ("GET", "/health/none", None, 401),
        ("GET", "/v1/embeddings", None, 401),
        ("GET", "/v1/embeddings", "user", 404),
    ],
)
async def test_request_without_a_route_gets_the_rule_of_its_first_segment(
    locked: System, method: str, path: str, name: str | None, status: int
) -> None:
    assert (await ask(locked, method, path, name))[0] == status


def test_table_without_routes_requires_a_key_for_every_path() -> None:
    table = RouteTable(())
    assert table.access_rule(make_mocked_request("GET", "/x"), None) == "key"
