"""`/sun/modules` of a worker: reports, gives and takes modules; refuses what it cannot keep."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from sun_sglang.checkpoint.module.read import module_size
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module import MODULES_PATH, MODULES_VARIABLE, ModuleLimits
from sun_sglang.contracts.modules_report import Changes, ModulesReport
from sun_sglang.errors import UserError
from sun_sglang.files.shared_snapshot import SnapshotReader, SnapshotWriter
from sun_sglang.patches.modules.shared_files import (
    HOST_FILE_VARIABLE,
    SCHEDULED_FILE_VARIABLE,
    HostModules,
    ScheduledModules,
)
from sun_sglang.worker.modules import page as page_module
from sun_sglang.worker.modules.page import ModulesPage

Write = Callable[..., Path]


class Server:
    """A server with the page, and its files."""

    def __init__(self, model: Path, environ: dict[str, str], **flags: Any) -> None:
        self.page = ModulesPage(environ)
        given = {"disaggregation_mode": "prefill", "device": "cuda", "revision": None, "dp_size": 1} | flags
        self.manager = SimpleNamespace(
            model_path=str(model), server_args=SimpleNamespace(resolved_dict=given.copy), sun_modules=None
        )
        self.page.prepare(SimpleNamespace(tokenizer_manager=self.manager))
        self.environ = environ
        self.app = FastAPI()
        self.app.router.add_route(MODULES_PATH, self.page.handle, methods=["GET", "POST"])
        self.app.router.add_route(MODULES_PATH + "/{revision}", self.page.handle_one, methods=["DELETE"])


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page_module, "shared_directory", lambda: tmp_path / "shared")
    return tmp_path / "shared"


@pytest.fixture
def own(write_checkpoint: Write) -> Path:
    return write_checkpoint("own", weights=b"own....")


@pytest.fixture
def server(own: Path, shared: Path) -> Server:
    return Server(own, {MODULES_VARIABLE: ModuleLimits(host_bytes=1 << 30).model_dump_json()})


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        yield client


def left_in(shared: Path) -> list[Path]:
    return list(shared.iterdir())


async def report(client: httpx.AsyncClient) -> ModulesReport:
    return ModulesReport.model_validate((await client.get(MODULES_PATH)).json())


async def test_modules_are_given_reported_published_and_taken_away(
    server: Server, client: httpx.AsyncClient, own: Path, shared: Path, write_checkpoint: Write
) -> None:
    other = write_checkpoint("other", weights=b"other..")
    revision, own_revision = weights_revision(other), weights_revision(own)
    assert await report(client) == ModulesReport(loaded=own_revision, own=own_revision)
    body = {"revision": revision, "directory": str(other)}
    for _ in range(2):
        reply = await client.post(MODULES_PATH, json=body)
        assert (reply.status_code, reply.json()) == (200, {})
    found = await report(client)
    assert set(found.held) == {own_revision, revision}
    assert found.host_bytes == module_size(own) + module_size(other)
    published = HostModules.model_validate_json(SnapshotReader(server.environ[HOST_FILE_VARIABLE]).read())
    assert set(published.held) == {own_revision, revision}
    assert (await client.delete(f"{MODULES_PATH}/{revision}")).status_code == 200
    assert (await client.delete(f"{MODULES_PATH}/{revision}")).status_code == 404
    assert (await report(client)).held == (own_revision,)
    server.page.close()
    assert left_in(shared) == []


async def test_report_has_the_schedulers_part(server: Server, client: httpx.AsyncClient) -> None:
    scheduled = ScheduledModules(
        loaded="a" * 16,
        queued={"b" * 16: 3},
        changed={"a" * 16: Changes(changes=2, seconds=0.5)},
        change_seconds=0.25,
        tokens_per_second=100.0,
    )
    SnapshotWriter(server.environ[SCHEDULED_FILE_VARIABLE]).write(scheduled.model_dump_json().encode())
    found = await report(client)
    assert found.loaded == "a" * 16
    assert found.queued == {"b" * 16: 3}
    assert found.changed["a" * 16].changes == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "the body"),
        (b"[1]", "the body"),
        (b'{"revision": "../../etc", "directory": "/x"}', "revision"),
        (b'{"revision": "0123456789abcdef", "directory": "/x", "more": 1}', "more"),
        (b'{"revision": "0123456789abcdef", "directory": "/nowhere"}', "/nowhere"),
        (b'{"revision": "0123456789abcdef", "directory": "/x\\u0000"}', "directory"),
        (b'{"revision": "0123456789abcdef", "directory": "' + b"x" * 70_000 + b'"}', "the body is over"),
    ],
)
async def test_wrong_request_is_one_error_and_gives_nothing(
    client: httpx.AsyncClient, body: bytes, problem: str
) -> None:
    reply = await client.post(MODULES_PATH, content=body)
    assert reply.status_code == 400
    assert problem in reply.json()["error"]["message"]
    assert (await report(client)).held == ()


async def test_module_that_does_not_fit_is_one_error_and_gives_nothing(
    client: httpx.AsyncClient, write_checkpoint: Write
) -> None:
    other = write_checkpoint("other", {"rms_norm_eps": 0.5}, weights=b"other..")
    reply = await client.post(MODULES_PATH, json={"revision": weights_revision(other), "directory": str(other)})
    assert reply.status_code == 400
    assert "`rms_norm_eps` is 0.5" in reply.json()["error"]["message"]
    assert (await report(client)).held == ()


async def test_worker_that_serves_its_own_model_alone_has_no_page(own: Path) -> None:
    server = Server(own, {})
    transport = httpx.ASGITransport(server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/" + "a" * 16)):
            assert (await client.request(method, MODULES_PATH + path)).status_code == 404
    assert server.manager.sun_modules is None
    server.page.close()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"disaggregation_mode": "decode"}, "only prefill workers keep modules"),
        ({"dp_size": 2}, "cannot take turns with `dp_size`"),
    ],
)
def test_server_that_cannot_change_between_modules_does_not_start(
    own: Path, shared: Path, flags: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        Server(own, {MODULES_VARIABLE: json.dumps({"host_bytes": 1})}, **flags)


def test_server_on_a_cpu_whose_layers_are_packed_does_not_start(
    own: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_packs_layers", lambda: True)
    with pytest.raises(UserError, match="for AMX"):
        Server(own, {MODULES_VARIABLE: json.dumps({"host_bytes": 1})}, device="cpu")
