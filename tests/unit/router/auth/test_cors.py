"""Cross-origin requests of web pages: which pages read which responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from sun_sglang.router.auth.cors import CrossOriginPolicy
from sun_sglang.topology import Router
from tests.unit.router.conftest import SMALL, SUN, Start, System
from tests.unit.router.fake_worker import Fault

APP, OTHER = "https://app.example.com", "https://evil.example"
KEY = "user-key-0123456789"
ASK = {"model": "math", "text": "hi"}
# as openai-node sends them from a browser
ASKED = "authorization,content-type,x-stainless-lang,x-stainless-os,x-sun-task"


async def preflight(system: System, path: str, origin: str = APP, method: str = "POST") -> tuple[int, dict[str, str]]:
    headers = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": ASKED}
    async with system.client.options(path, headers=headers) as reply:
        return reply.status, allowed(reply)


def allowed(reply: aiohttp.ClientResponse) -> dict[str, str]:
    prefix = "Access-Control-"
    return {name.removeprefix(prefix): value for name, value in reply.headers.items() if name.startswith(prefix)}


@pytest.fixture(params=[False, True], ids=["no keys", "keys"])
async def listed(request: pytest.FixtureRequest, start: Start, tmp_path: Path) -> System:
    settings: dict[str, Any] = {"cors": [APP]}
    if request.param:
        file = tmp_path / "keys.yaml"
        file.write_text(yaml.safe_dump({"keys": [{"name": "user", "key": KEY}]}))
        settings["api_keys"] = str(file)
    system: System = await start(SUN, SMALL, router=settings)
    return system


async def test_preflight_of_a_listed_page_is_permitted_without_a_key(listed: System) -> None:
    for path in ("/v1/chat/completions", "/v1/chat/completions/", "/generate"):
        status, headers = await preflight(listed, path)
        assert status == 204
        assert headers["Allow-Origin"] == APP
        assert headers["Allow-Credentials"] == "true"
        assert "POST" in headers["Allow-Methods"].split(", ")
        assert headers["Allow-Headers"].split(", ") == ASKED.split(",")
    assert (await preflight(listed, "/v1/models/math", method="GET"))[0] == 204


@pytest.mark.parametrize("stream", [False, True])
async def test_page_of_a_listed_origin_reads_answers_and_errors(listed: System, stream: bool) -> None:
    headers = {"Origin": APP, "Authorization": f"Bearer {KEY}"}
    for model, status in (("math", 200), ("none", 404)):
        body = {**ASK, "model": model, "stream": stream}
        async with listed.client.post("/generate", json=body, headers=headers) as reply:
            assert (reply.status, allowed(reply)["Allow-Origin"], reply.headers["Vary"]) == (status, APP, "Origin")
            assert allowed(reply)["Expose-Headers"] == "X-Request-Id, Retry-After, X-Sun-Adapter, X-Sun-Module"


async def test_other_page_gets_no_permission(listed: System) -> None:
    for origin in (OTHER, "null", APP + ":8443", APP.replace("https", "http"), APP + "/", APP.upper()):
        status, headers = await preflight(listed, "/generate", origin)
        assert (status, headers) == (403, {})
    async with listed.client.get("/livez", headers={"Origin": OTHER}) as reply:
        assert (reply.status, allowed(reply), reply.headers["Vary"]) == (200, {}, "Origin")


async def test_preflight_of_every_route_permits_what_the_request_then_gets(listed: System) -> None:
    refused = set()
    for route in listed.router.routes.routes:
        path = route.path.replace("{name}", "none").replace("{name:.+}", "none").replace("{model:.+}", "math")
        status, headers = await preflight(listed, path, method=route.method)
        permitted = status == 204 and route.method in headers["Allow-Methods"].split(", ")
        own = {"Origin": APP, "Authorization": f"Bearer {KEY}"}
        json = {} if route.method in ("POST", "PUT") else None
        async with listed.client.request(route.method, path, headers=own, json=json) as reply:
            code = (await reply.json())["error"].get("code") if reply.status == 403 else None
            readable = "Allow-Origin" in allowed(reply)
        if route.method != "OPTIONS":
            assert permitted == (readable and code != "cross_site_request"), route
        if code == "cross_site_request" and readable:
            assert (status, headers.keys()) == (403, {"Allow-Origin", "Allow-Credentials", "Expose-Headers"}), route
            refused.add((route.method, route.path))
    keyless = {("POST", "/abort_request"), ("GET", "/health_generate")}
    assert refused == (set() if listed.router.fleet.router.api_keys else keyless)


@pytest.mark.parametrize("path", ["/tasks", "/workers", "/workers/math-0/drain", "/pools", "/flush_cache", "/metrics"])
async def test_endpoint_of_an_admin_key_is_closed_to_every_page(listed: System, path: str) -> None:
    status, headers = await preflight(listed, path)
    assert (status in (401, 405), headers) == (True, {})
    async with listed.client.get(path, headers={"Origin": APP}) as reply:
        assert allowed(reply) == {}


async def test_every_page_may_call_but_sends_no_credentials(start: Start) -> None:
    system: System = await start(SUN, SMALL, router={"cors": ["*"]})
    status, headers = await preflight(system, "/generate", OTHER)
    assert (status, headers["Allow-Origin"]) == (204, "*")
    assert "Allow-Credentials" not in headers
    assert (await preflight(system, "/workers", OTHER)) == (405, {})


async def test_pages_are_refused_by_default(small: System) -> None:
    assert await preflight(small, "/generate") == (405, {})
    async with small.client.post("/generate", json=ASK, headers={"Origin": APP}) as reply:
        assert (reply.status, allowed(reply), "Vary" in reply.headers) == (200, {}, False)


async def test_options_that_is_no_preflight_lists_the_methods(listed: System) -> None:
    async with listed.client.options("/generate") as reply:
        assert (reply.status, reply.headers["Allow"]) == (204, "POST, PUT, OPTIONS")


async def test_error_of_a_stream_reaches_a_listed_page(listed: System) -> None:
    listed["base-0"].fault = Fault(error_after=1)
    headers = {"Origin": APP, "Authorization": f"Bearer {KEY}"}
    async with listed.client.post("/generate", json={**ASK, "stream": True}, headers=headers) as reply:
        assert (reply.status, allowed(reply)["Allow-Origin"]) == (200, APP)
        assert '"code":"stream_broken"' in await reply.text()


def test_header_names_of_a_preflight_are_bounded_and_checked() -> None:
    policy = CrossOriginPolicy([APP])
    names = policy.preflight_headers(["POST"], "a,b\r\nx: y,\u00e9,c d,*,A-1")["Access-Control-Allow-Headers"]
    assert names == "a, A-1"
    many = policy.preflight_headers(["POST"], ",".join(["a"] * 10_000))["Access-Control-Allow-Headers"]
    assert len(many.split(", ")) <= 64
    assert "Access-Control-Allow-Headers" not in policy.preflight_headers(["POST"], "")


@pytest.mark.parametrize(
    "origin", ["https://app.example.com", "http://localhost:3000", "http://[::1]:8080", "tauri://localhost", "*"]
)
def test_origin_as_browsers_send_it_is_valid(origin: str) -> None:
    assert Router(cors=(origin,)).cors == (origin,)


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://app.example.com/", "https://App.example.com", "https://x:443", "null", ""]
)
def test_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="is not an origin as browsers send it"):
        Router(cors=(origin,))
