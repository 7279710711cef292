from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.metrics.summary import Workers
from sun_sglang.bench.serving.targets.running import deployment_target, url_target
from sun_sglang.bench.serving.targets.target import Target
from tests.support.certificate import self_signed
from tests.support.ports import PORTS
from tests.support.scripted_server import Pieces, scripted_server


def pages(found: Mapping[str, Any]) -> Any:
    """Return a handler with some pages; an int is a status."""

    async def handler(_: dict[str, Any], request: web.Request) -> web.StreamResponse:
        page = found.get(request.path, 404)
        if isinstance(page, int):
            return web.Response(status=page, headers={"Location": "/v1/models"})
        return web.Response(text=page) if isinstance(page, str) else web.json_response(page)

    return handler


def pool(name: str, *workers: str) -> dict[str, Any]:
    given = {"url": "http://x", "state": "ready", "reason": "", "incarnation": "1", "in_flight": 0}
    return {"pool": name, "model": name, "workers": [{"name": worker, **given} for worker in workers]}


def task(prefill: str) -> dict[str, Any]:
    return {
        "ready": True,
        "prefill": pool(prefill, f"{prefill}-0"),
        "decode": pool("base", "base-0", "base-1"),
        "paths": [],
        "unproven_paths": [],
        "queued": 0,
        "in_flight": 0,
        "namespace": None,
    }


ROUTER = {"/tasks": {"ready": True, "draining": False, "tasks": {"math": task("math"), "code": task("code")}}}
PLAIN = {"/v1/models": {"data": [{"id": "llama"}, {"id": "lora"}]}}


async def target_of(found: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Target:
    async with scripted_server(pages(found)) as server:
        return await url_target(f"{server.url}/v1", environment or {})


async def test_target_router_has_its_tasks_and_counts_shared_workers_once() -> None:
    target = await target_of(ROUTER)
    assert target.tasks == ("math", "code")
    assert target.workers_of(target.tasks) == Workers(total=4, decode=2)
    assert target.workers_of(["code"]) == Workers(total=3, decode=2)


@pytest.mark.parametrize("tasks", [404, "<html>", {"other": 1}, 302, 500])
async def test_target_plain_server_has_its_models_and_unknown_workers(tasks: Any) -> None:
    target = await target_of({**PLAIN, "/tasks": tasks})
    assert target.tasks == ("llama", "lora")
    assert target.workers_of(target.tasks) is None


async def test_target_key_of_the_environment_is_sent() -> None:
    async with scripted_server(pages(PLAIN)) as server:
        target = await url_target(server.url, {"OPENAI_API_KEY": "k"})
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer k"}
    assert target.endpoint_of("llama").headers == {"Authorization": "Bearer k"}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"/tasks": 401}, "answers 401; set OPENAI_API_KEY"),
        ({"/v1/models": 403}, "answers 403; set OPENAI_API_KEY"),
        ({}, "/v1/models answers 404; is this the URL of a server with OpenAI's API"),
        ({"/v1/models": "text"}, "does not answer with JSON"),
        ({"/v1/models": {"models": []}}, "does not list models"),
        ({"/v1/models": [1]}, "does not list models"),
        ({"/v1/models": {"data": 3}}, "does not list models"),
    ],
)
async def test_target_of_another_kind_is_refused_with_the_reason(found: Mapping[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        await target_of(found)


async def test_target_nobody_listens_is_refused_with_the_url() -> None:
    url = f"http://127.0.0.1:{next(PORTS)}"
    with pytest.raises(BenchError, match=rf"nothing answers at {url}/tasks \(Connect call failed"):
        await url_target(url, {})


async def test_target_whose_certificate_is_not_accepted_is_refused_with_the_fix(tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*self_signed(tmp_path, "localhost"))
    async with scripted_server(pages(PLAIN), context) as server:
        with pytest.raises(BenchError, match=r"certificate at https://.* is not accepted \(.*\); set SSL_CERT_FILE"):
            await url_target(server.url, {})


async def test_target_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sun_sglang.bench.serving.targets.running._WITHIN", 0.05)
    async with scripted_server(Pieces()) as server:
        with pytest.raises(BenchError, match="does not answer within"):
            await url_target(server.url, {})


async def test_target_without_a_deployment_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(BenchError, match=r"no deployment is running; start one with `sun launch FILE`, .* --url"):
        await deployment_target(None, None)


async def test_target_tasks_are_the_wished_ones_in_their_order_or_all() -> None:
    target = await target_of(ROUTER)
    assert target.choose([]) == ("math", "code")
    assert target.choose(["code", "math"]) == ("code", "math")
    with pytest.raises(BenchError, match=r"--tasks: .* serves no task `tool`; it serves `math`, `code`"):
        target.choose(["math", "tool"])
    with pytest.raises(BenchError, match="serves no task"):
        (await target_of({"/v1/models": {"data": []}})).choose([])
