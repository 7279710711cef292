"""The worker key: a worker accepts only requests with its key, and the router sends the key in every request."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.contracts.worker_key import is_authorized
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.router.app import Router
from sun_sglang.router.observability.log import Log
from sun_sglang.worker.key_middleware import WorkerKeyMiddleware
from tests.support.ports import PORTS
from tests.unit.router.conftest import DEADLINES, System

KEY = "worker-key-0123456789"
OTHER = "another-key-0123456789"
ROUTES = [
    ("GET", "/sun/worker"),
    ("GET", "/health"),
    ("GET", "/health_generate"),
    ("GET", "/metrics"),
    ("GET", "/v1/loads"),
    ("GET", "/server_info"),
    ("OPTIONS", "/generate"),
    ("POST", "/generate"),
    ("POST", "/abort_request"),
    ("POST", "/flush_cache"),
    ("POST", "/tokenize"),
    ("POST", "/update_weights_from_disk"),
    ("POST", "/no/such/route"),
]


async def worker(role: str, model: str, key: str | None) -> EmulatedWorker:
    argv = ["--model-path", model, "--disaggregation-mode", role, "--disaggregation-bootstrap-port", str(next(PORTS))]
    settings = parse_settings([*argv, "--disaggregation-decode-enable-radix-cache", "--sim-vocab-size", "1000"])
    started = EmulatedWorker(settings.model_copy(update={"key": key}))
    await started.start()
    return started


@pytest.fixture
async def pair() -> AsyncIterator[dict[str, EmulatedWorker]]:
    """Start a prefill and a decode worker with one key."""
    workers = {role: await worker(role, f"none/{role}", KEY) for role in ("prefill", "decode")}
    yield workers
    for one in workers.values():
        await one.stop()


def url(worker: EmulatedWorker) -> str:
    return f"http://127.0.0.1:{worker.server.port}"


def fleet(pair: dict[str, EmulatedWorker], **keys: str | None) -> dict[str, Any]:
    return {
        "tasks": {"math": {"prefill": "prefill", "decode": "decode"}},
        "pools": {role: {"role": role, "model": "none"} for role in pair},
        "workers": [
            {"name": role, "pool": role, "url": url(w), "key": keys.get(role, KEY)} for role, w in pair.items()
        ],
        "router": {"port": 0, "probe_interval": 0.05},
    }


@pytest.fixture
async def system(pair: dict[str, EmulatedWorker]) -> AsyncIterator[System]:
    """Start a router over the pair that has their key."""
    log = io.StringIO()
    system = System(None, {}, log)  # type: ignore[arg-type]  # these workers keep no rooms
    system.router = await Router.start(Fleet.model_validate(fleet(pair)), Log(log), deadlines=DEADLINES)
    system.client = aiohttp.ClientSession(base_url=system.router.url)
    yield system
    await system.client.close()
    await system.router.stop(0.0)


@pytest.mark.invariant("I18")
@pytest.mark.parametrize(
    "header", [None, "Bearer", f"Bearer {OTHER}", KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer é"]
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_without_the_key_is_refused(
    pair: dict[str, EmulatedWorker], method: str, path: str, header: str | None
) -> None:
    headers = {"Authorization": header} if header else {}
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, url(pair["decode"]) + path, headers=headers) as reply,
    ):
        assert reply.status == 401
        assert "worker key" in await reply.text()


async def test_an_abort_without_the_key_leaves_requests_alone(pair: dict[str, EmulatedWorker], system: System) -> None:
    await system.ready()
    body = {"model": "math", "input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 4}}
    async with aiohttp.ClientSession() as stranger:
        hold = {"kind": "hold", "spare": "sun-canary"}
        bearer = {"Authorization": f"Bearer {KEY}"}
        async with stranger.post(url(pair["decode"]) + "/sun/fault", json=hold, headers=bearer) as reply:
            assert reply.status == 200, await reply.text()
        async with system.client.post("/generate", json={**body, "stream": True}) as answer:
            async with stranger.post(url(pair["decode"]) + "/abort_request", json={"abort_all": True}) as reply:
                assert reply.status == 401
            clear = {"kind": "clear"}
            async with stranger.post(url(pair["decode"]) + "/sun/fault", json=clear, headers=bearer) as reply:
                assert reply.status == 200
            assert (await answer.text()).endswith("data: [DONE]\n\n")


async def test_the_router_sends_the_key_with_everything_that_it_asks(system: System) -> None:
    await system.ready()
    body = {"model": "math", "input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 4}}
    assert (await system.post("/generate", body))[0] == 200
    long = "word " * 200_000
    assert (await system.post("/v1/completions", {"model": "math", "prompt": long}))[0] == 400, "a tokenizer was asked"
    for path in ("/model_info", "/server_info"):
        status, page = await system.get(path)
        assert status == 200
        assert KEY not in json.dumps(page)
        assert "error" not in page
    async with system.client.post("/flush_cache") as reply:
        assert reply.status == 200, await reply.text()
    async with system.client.post("/abort_request", json={"abort_all": True}) as reply:
        assert reply.status == 200
    await wait_until(lambda: all(w.last_progress > 0 for w in system.router.registry.workers.values()))
    assert "abort_failed" not in system.log.getvalue()
    assert KEY not in system.log.getvalue()


async def test_a_worker_whose_key_the_fleet_lacks_is_not_served_and_says_why(pair: dict[str, EmulatedWorker]) -> None:
    log = io.StringIO()
    router = await Router.start(Fleet.model_validate(fleet(pair, decode=None)), Log(log), deadlines=DEADLINES)
    system = System(None, {}, log)  # type: ignore[arg-type]  # these workers keep no rooms
    system.router = router
    await wait_until(lambda: "requires a worker key" in router.registry.workers["decode"].reason)
    await router.stop(0.0)


async def test_a_worker_added_with_its_key_serves_and_no_page_shows_the_key(
    pair: dict[str, EmulatedWorker], system: System
) -> None:
    await system.ready()
    extra = await worker("decode", "none/decode", OTHER)
    spec = {"name": "more", "pool": "decode", "url": url(extra), "key": OTHER}
    async with system.client.post("/workers", json=spec) as reply:
        assert reply.status == 201
        assert OTHER not in await reply.text()
    await wait_until(lambda: system.router.registry.state("more") == "ready")
    for path in ("/workers", "/tasks", "/server_info"):
        assert OTHER not in json.dumps((await system.get(path))[1])
    async with system.client.post("/workers", json={**spec, "name": "short", "key": "short"}) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["param"] == "key"
    await extra.stop()


async def test_a_worker_whose_key_changes_is_another_worker(pair: dict[str, EmulatedWorker], system: System) -> None:
    await system.ready()
    before = system.router.registry.workers["decode"]
    await system.router.store.edit(lambda document: document["workers"][1].update(key=OTHER))
    assert system.router.registry.workers["decode"] is not before
    await wait_until(lambda: "requires a worker key" in system.router.registry.workers["decode"].reason)


async def test_a_fleet_file_with_keys_stays_readable_by_its_user_alone(
    pair: dict[str, EmulatedWorker], tmp_path: Path
) -> None:
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(fleet(pair)))
    router = await Router.start(Fleet.model_validate(fleet(pair)), Log(io.StringIO()), path, deadlines=DEADLINES)
    await router.store.edit(lambda document: document["workers"][0].update(draining=True))
    assert json.loads(path.read_text())["workers"][0]["key"] == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await router.stop(0.0)


# --- what stands before SGLang's own routes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"authorization", f"Bearer {KEY}".encode())], 200),
        ([(b"authorization", f"bearer {KEY}".encode())], 200),
        ([], 401),
        ([(b"authorization", b"Bearer \xff\xfe")], 401),
        ([(b"authorization", b"Bearer x"), (b"authorization", f"Bearer {KEY}".encode())], 401),
    ],
)
async def test_the_middleware_lets_only_the_key_pass(headers: list[tuple[bytes, bytes]], status: int) -> None:
    sent: list[dict[str, Any]] = []

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await WorkerKeyMiddleware(app, KEY)({"type": "http", "path": "/health", "headers": headers}, None, send)
    assert sent[0]["status"] == status


async def test_the_middleware_closes_a_websocket_without_the_key_and_lets_the_server_start() -> None:
    reached: list[str] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], _receive: Any, _send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await WorkerKeyMiddleware(app, KEY)({"type": "websocket", "headers": []}, None, send)
    await WorkerKeyMiddleware(app, KEY)({"type": "lifespan"}, None, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert reached == ["lifespan"]


def test_a_header_that_is_no_ascii_is_compared_and_not_an_error() -> None:
    assert not is_authorized("Bearer \udc80é", KEY)
