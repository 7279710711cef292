from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from sun_sglang.bench.polling import wait_until
from sun_sglang.cli import workers as workers_command
from sun_sglang.cli.main import build_app
from sun_sglang.launch import discovery
from sun_sglang.launch.discovery import Deployment
from sun_sglang.launch.state import DeploymentState
from sun_sglang.router.errors import ApiError
from sun_sglang.router.workers.fleet_edits import set_draining
from tests.unit.router.conftest import SUN, Start, System
from tests.unit.router.fake_worker import Fault, expected
from tests.unit.router.fleet_api import ASK, IDS, another


@pytest.fixture
def cli(small: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that runs `sun ...` against the router of `small`, in a thread."""
    state = DeploymentState.model_construct(url=small.router.url, topology=tmp_path / "sun.yaml")
    monkeypatch.setattr(discovery, "running_deployment", lambda *_: Deployment(tmp_path, state))

    async def run(*arguments: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, build_app(), list(arguments))

    return run


async def test_sun_workers_and_sun_task(small: System, cli: Any) -> None:
    new = await another(small, "new-0", "prefill", "w-new")
    done = await cli("workers", "add", "new-0", "--pool", "new", "--url", new.url, "--role", "prefill")
    assert done.exit_code == 0, done.output
    done = await cli("task", "update", "math", "--prefill", "new", "--weight", "3")
    assert (done.exit_code, done.output) == (0, "math: prefill new, decode base\n")
    assert small.router.registry.fleet.tasks["math"].weight == 3
    assert (await small.post("/generate", ASK))[1]["output_ids"] == expected("w-new", "w-base", IDS, 4)
    done = await cli("workers", "remove", "math-0", "--json")
    assert {w["name"] for w in orjson.loads(done.output)} == {"new-0", "tool-0", "base-0"}
    done = await cli("workers", "drain", "tool-0")
    assert "draining" in done.output
    assert "draining" not in (await cli("workers", "resume", "tool-0")).output
    for move in (("--move",), ("--move",), ()):
        assert "draining" in (await cli("workers", "drain", "base-0", *move)).output
        worker = small.router.registry.workers["base-0"]
        assert (worker.draining, worker.moving, worker.spec.moving) == (True, bool(move), bool(move))
    assert (await cli("workers", "resume", "base-0")).exit_code == 0
    assert not small.router.registry.workers["base-0"].spec.moving


async def test_wanted_size_of_a_pool_is_in_the_metrics_and_nothing_else_reads_it(small: System) -> None:
    for call, path, body in (
        (small.client.post, "/pools", {"name": "more", "role": "decode", "model": "m", "wanted_workers": 2}),
        (small.client.put, "/pools/base", {"wanted_workers": 5}),
    ):
        async with call(path, json=body) as reply:
            assert reply.status < 300, await reply.text()
    await small.client.get("/metrics")
    assert small.metric("sun_pool_wanted_workers", pool="more") == 2
    assert small.metric("sun_pool_wanted_workers", pool="base") == 5
    async with small.client.put("/pools/no", json={"wanted_workers": 1}) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (404, "pool_not_found")
    assert [w.name for w in small.router.registry.members("base")] == ["base-0"]


async def test_commands_that_cannot_be(small: System, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, words in (
        (("workers", "drain"), "which worker?"),
        (("workers", "add", "x"), "--pool POOL --url URL"),
        (("workers", "drain", "no"), "no worker is named `no`"),
        (("task", "update", "math"), "nothing to change"),
        (("task", "update", "math", "--prefill", "base"), "is a decode pool"),
        (("task", "update", "no", "--weight", "2"), "no task is named `no`"),
        (("task", "math", "--prefill", "tool"), "`sun task math ...` is now `sun task update math ...`"),
        (("task", "update"), "which task? `sun task update NAME`"),
        (("task", "list", "math"), "give no name"),
        (("task", "remove", "math", "--weight", "2"), "takes no fields"),
        (("task", "update", "math", "--adapter", "a", "--no-adapter"), "not both"),
        (("task", "add", "math", "--prefill", "math", "--decode", "base"), "a task `math` already"),
        (("task", "add", "x", "--prefill", "math", "--decode", "base", "--adapter", "/none"), "/none"),
    ):
        done = await cli(*arguments)
        assert done.exit_code == 1
        assert words in str(done.exception)
    small["base-0"].fault = Fault(hang_after=2)
    asked = asyncio.create_task(small.post("/generate", {**ASK, "rid": "r"}))
    await wait_until(lambda: small["base-0"].running)
    monkeypatch.setattr(workers_command, "_POLL", 0.01)
    done = await cli("workers", "drain", "base-0", "--timeout", "0.05")
    assert "still has 1 requests" in str(done.exception)
    await small.client.post("/abort_request", json={"rid": "r"})
    await asked


async def test_admin_calls_are_for_admins(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: [{name: a, key: aaaaaaaaaaaaaaaaaaaa}]")
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"api_keys": str(file)})
    for method, path in (("DELETE", "/workers/base-0"), ("PUT", "/tasks/math"), ("POST", "/pools")):
        async with system.client.request(method, path, headers={"X-API-Key": "a" * 20}, json={}) as r:
            assert r.status == 403
    with pytest.raises(ApiError):
        await system.router.store.edit(set_draining("no", draining=True))
