"""The requests that a web page may and may not cause at a router without keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.errors import TopologyError
from sun_sglang.router.auth.browser_guard import BrowserGuard
from sun_sglang.router.errors import ApiError
from sun_sglang.topology_file import parse_topology
from tests.unit.router.conftest import SUN, Start, System

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
KEY = "k" * 20


def code(
    guard: BrowserGuard, method: str = "GET", path: str = "/tasks", *, cross_site: bool = True, **headers: str
) -> str | None:
    """Return the code of the refusal; None where there is none."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        guard.check(method, path, named, cross_site=cross_site)
    except ApiError as error:
        return error.code if error.status == 403 else str(error.status)
    return None


# --- host names -----------------------------------------------------------------------------------------------------


OURS = (
    *("127.0.0.1:8000", "10.0.0.5", "[::1]:8000", "[fe80::1%25eth0]:1", "localhost:8000", "LocalHost.", "gpu-box:8000"),
    *(
        "router.default.svc.cluster.local",
        "app.localhost:1",
        "box.internal",
        "llm.example.com",
        "a.b.example.org:80",
        "",
    ),
)
THEIRS = (
    *("evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost.evil.com", "10.0.0.5.nip.io", "999.0.0.1"),
    *(
        "example.org",
        "evilexample.org",
        "llm.example.com.evil.com",
        "x.local.evil.com",
        "[evil.com]:80",
        "caf\udce9.fr",
    ),
)


@pytest.mark.parametrize("host", OURS)
def test_host_that_no_foreign_page_has_is_served(host: str) -> None:
    guard = BrowserGuard(["127.0.0.1", "llm.example.com", "*.example.org"], tls=False)
    assert code(guard, Host=host) is None


@pytest.mark.parametrize("host", THEIRS)
def test_host_that_a_foreign_page_may_have_is_refused(host: str) -> None:
    guard = BrowserGuard(["0.0.0.0", "llm.example.com", "*.example.org"], tls=False)
    assert code(guard, Host=host) == "host_not_allowed"
    assert code(BrowserGuard(["*"], tls=False), Host=host) is None
    assert code(BrowserGuard([], tls=True), Host=host) is None


def test_request_without_a_host_is_served() -> None:
    assert code(BrowserGuard([], tls=False)) is None


@pytest.mark.parametrize("host", ["http://a.com", "a.com:80", "*.", "a.*", "", "a b"])
def test_topology_with_a_host_that_is_no_name_is_refused(host: str, tmp_path: Path) -> None:
    pools = "pools: {p: {role: prefill, model: org/m}, d: {role: decode, model: org/m}}\n"
    text = pools + f"tasks: {{t: {{prefill: p, decode: d}}}}\nrouter: {{hosts: ['{host}']}}"
    with pytest.raises(TopologyError, match=r"router\.hosts\.0"):
        parse_topology(text, base=tmp_path)


# --- acts -----------------------------------------------------------------------------------------------------------

ACTS = [
    *(("POST", "/workers"), ("POST", "/workers/base-0/drain"), ("DELETE", "/workers/base-0"), ("PUT", "/tasks/math")),
    *(("POST", "/pools"), ("DELETE", "/pools/x"), ("POST", "/flush_cache"), ("GET", "/flush_cache")),
    *(("HEAD", "/flush_cache"), ("POST", "/abort_request"), ("GET", "/health_generate")),
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_act_for_a_foreign_page_is_refused_and_for_a_program_is_not(method: str) -> None:
    guard = BrowserGuard([], tls=False)
    host = {"Host": "localhost:8000"}
    for foreign in (
        *({"Origin": o} for o in ("http://evil.com", "null", "", "http://localhost:3000", "http://[", "\udcff")),
        *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "?")),
    ):
        with pytest.raises(ApiError) as e:
            guard.check(method, "/x", host | foreign, cross_site=False)
        assert (e.value.status, e.value.code) == (403, "cross_site_request")
        assert "router.api_keys" in e.value.message
    for own in ({}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost:8000"}, {"User-Agent": "curl/8.5.0"}):
        guard.check(method, "/x", host | own, cross_site=False)
    is_read = method in ("GET", "HEAD")
    refusal = "cross_site_request" if is_read else None
    assert code(guard, method, cross_site=False, User_Agent=FIREFOX) == refusal


def test_request_that_a_foreign_page_may_cause_is_served() -> None:
    assert code(BrowserGuard([], tls=False), "GET", Origin="http://evil.com", User_Agent=FIREFOX) is None


@pytest.mark.parametrize(("method", "path"), ACTS)
async def test_route_that_acts_is_refused_to_a_foreign_page(small: System, method: str, path: str) -> None:
    page = {"Origin": "http://evil.com", "User-Agent": FIREFOX}
    async with small.client.request(method, path, headers=page) as r:
        assert r.status == 403
        assert method == "HEAD" or (await r.json())["error"]["code"] == "cross_site_request"


@pytest.mark.parametrize("path", ["/tasks", "/workers", "/metrics", "/v1/models", "/health", "/tasksx"])
async def test_route_that_reads_is_served_to_a_foreign_page(small: System, path: str) -> None:
    async with small.client.get(path, headers={"Origin": "http://evil.com", "User-Agent": FIREFOX}) as r:
        assert r.status == (404 if path == "/tasksx" else 200)


# --- the router -----------------------------------------------------------------------------------------------------


async def test_a_page_changes_nothing_and_reads_nothing(small: System) -> None:
    new = '{"name": "x-0", "pool": "base", "url": "http://127.0.0.1:1"}'
    page = {"Origin": "http://evil.com", "Content-Type": "text/plain"}
    sent: list[tuple[str, str, dict[str, Any], int]] = [
        ("POST", "/workers", {"data": new, "headers": page}, 403),
        ("POST", "/workers/base-0/drain", {"headers": page}, 403),
        ("GET", "/flush_cache", {"headers": {"User-Agent": FIREFOX}}, 403),
        ("POST", "/abort_request", {"data": '{"abort_all": true}', "headers": page}, 403),
        ("GET", "/workers", {"headers": {"Host": "evil.com"}}, 403),
        ("POST", "/workers", {"data": new, "headers": {"Content-Type": "text/plain"}}, 400),
        ("PUT", "/tasks/math", {"data": "{}", "headers": {"Content-Type": "text/plain"}}, 400),
        ("POST", "/pools", {"data": "{}"}, 400),
        ("POST", "/abort_request", {"data": '{"abort_all": true}'}, 400),
        ("POST", "/generate", {"data": '{"model": "math", "text": "a"}', "headers": page}, 400),
        ("OPTIONS", "/generate", {"headers": {**page, "Access-Control-Request-Headers": "content-type"}}, 405),
    ]
    for method, path, kwargs, status in sent:
        async with small.client.request(method, path, **kwargs) as r:
            assert r.status == status, (method, path, await r.text())
            assert not any(name.startswith("Access-Control") for name in r.headers)
    assert small.router.registry.state("base-0") == "ready"
    assert set(small.router.registry.workers) == {"math-0", "tool-0", "base-0"}
    assert small["base-0"].flushes == 0
    async with small.client.get("/flush_cache") as r:
        assert r.status == 200, "a program may, as it may with SGLang"


async def test_hosts_of_the_topology_are_served(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"hosts": ["llm.example.com"]})
    async with system.client.get("/tasks", headers={"Host": "llm.example.com"}) as r:
        assert r.status == 200
    async with system.client.get("/tasks", headers={"Host": "example.com"}) as r:
        assert r.status == 403
        assert "router.hosts" in await r.text()


async def test_with_keys_a_request_is_judged_by_its_key(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [{"name": "root", "key": KEY, "admin": True}]}))
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"api_keys": str(file)})
    elsewhere = {"Host": "example.com", "Origin": "http://example.org"}
    async with system.client.post("/workers/base-0/resume", headers={**elsewhere, "X-API-Key": KEY}) as r:
        assert r.status == 200
    async with system.client.post("/workers/base-0/resume", headers=elsewhere) as r:
        assert r.status == 401


@pytest.mark.parametrize("timeout", ["inf", "nan", "1e400", "1e300", "3601", "x", "-inf"])
async def test_flush_cache_with_a_timeout_that_is_no_time_is_refused(small: System, timeout: str) -> None:
    async with small.client.post("/flush_cache", params={"timeout": timeout}) as r:
        assert r.status == (200 if timeout == "-inf" else 400)
        if r.status == 400:
            assert (await r.json())["error"]["param"] == "timeout"
