from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.local.child import Child, LocalRunning
from sun_sglang.launch.places.place import Address, Running
from sun_sglang.launch.planning.plan import WORKER_KEY, WorkerPlan
from sun_sglang.launch.state import Phase, read_state
from sun_sglang.launch.supervision.readiness import Limits
from sun_sglang.launch.supervision.server_group import ServerGroup
from tests.support.scripted_server import ScriptedServer, scripted_server


class FakePlace:
    """Starts shell commands in the place of servers, at the addresses of a test's own servers."""

    def __init__(self, commands: dict[str, str], urls: dict[str, str], log: Path) -> None:
        self._commands = commands
        self._urls = urls
        self._log = log
        self.started: list[WorkerPlan] = []
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def reserve(self, worker: str, _needs: Any) -> Any:
        address = Address(host="127.0.0.1", port=int(self._urls[worker].rpartition(":")[2]))
        return SimpleNamespace(worker=worker, address=address)

    async def start(self, slot: Any, worker: WorkerPlan) -> Running:
        self.started.append(worker)
        command = f"exec {self._commands[worker.name]}"
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_shell(command, process_group=0, stdout=log, stderr=log)
        return LocalRunning(slot.address, Child(process.pid, process.wait()), self._log, 0)

    async def close(self) -> None:
        self.is_open = False


def plan(name: str, directory: Path) -> WorkerPlan:
    return WorkerPlan(
        name=name,
        pool=name,
        role="unified",
        gpus=(),
        threads=1,
        env={},
        argv=(),
        needs_nccl_port=True,
        log=directory / f"{name}.log",
        module="none",
        forkable=False,
    )


class Health:
    """A server whose health a test sets."""

    def __init__(self) -> None:
        self.status = 503
        self.keys: set[str | None] = set()

    async def __call__(self, _: dict[str, Any], request: web.Request) -> web.StreamResponse:
        self.keys.add(request.headers.get("Authorization"))
        return web.Response(status=self.status)


@asynccontextmanager
async def running(group: ServerGroup) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(group.run())
    async with asyncio.timeout(60):
        yield task
        group.stop()
        await asyncio.gather(task, return_exceptions=True)


def group_of(
    tmp_path: Path, commands: dict[str, str], servers: dict[str, ScriptedServer], **limits: Any
) -> tuple[ServerGroup, FakePlace, asyncio.Event]:
    """Return a group, its place, and an event that is set when the group is ready."""
    place = FakePlace(commands, {name: server.url for name, server in servers.items()}, tmp_path / "log")
    plans, ready = [plan(name, tmp_path) for name in commands], asyncio.Event()
    group = ServerGroup(
        plans,
        tmp_path / "peer.yaml",
        place,  # type: ignore[arg-type]  # the parts of a place that a group uses
        tmp_path,
        Limits(early_ends=1, **limits),
        lambda state: ready.set() if state.phase == Phase.READY else None,
    )
    return group, place, ready


async def test_group_is_ready_when_all_servers_answer_and_ends_them_at_stop(tmp_path: Path) -> None:
    one, two = Health(), Health()
    async with scripted_server(one) as left, scripted_server(two) as right:
        commands = {"a": "sleep 600", "b": "sleep 600"}
        group, place, ready = group_of(tmp_path, commands, {"a": left, "b": right})
        async with running(group) as task:
            one.status = 200
            assert not ready.is_set()
            two.status = 200
            await ready.wait()
            state = read_state(tmp_path)
            assert state is not None
            assert (state.phase, state.pid) == (Phase.READY, os.getpid())
            assert [(process.name, process.role, process.url) for process in state.processes] == [
                ("a", "server", left.url),
                ("b", "server", right.url),
            ]
            group.stop()
            await task
    assert not place.is_open
    assert [process.phase for process in group.state.processes] == [Phase.STOPPED] * 2
    key = (tmp_path / WORKER_KEY).read_text()
    assert one.keys == two.keys == {f"Bearer {key}"}
    assert all(worker.env["SUN_WORKER_KEY"] == key for worker in place.started)


async def test_group_server_that_ends_before_it_answers_ends_all_with_the_end_of_its_log(tmp_path: Path) -> None:
    async with scripted_server(Health()) as server:
        commands = {"a": "sleep 600", "b": "sh -c 'echo no weights; exit 3'"}
        group, place, _ = group_of(tmp_path, commands, {"a": server, "b": server})
        with pytest.raises(LaunchError, match=r"`b` ended 1 times before it was ready \(exit 3\); .*\nno weights"):
            await group.run()
    assert not place.is_open
    state = read_state(tmp_path)
    assert state is not None
    assert state.phase == Phase.FAILED


async def test_group_that_takes_too_long_names_what_is_missing(tmp_path: Path) -> None:
    healthy = Health()
    healthy.status = 200
    async with scripted_server(healthy) as left, scripted_server(Health()) as right:
        commands = {"a": "sleep 600", "b": "sleep 600"}
        group, _, _ = group_of(tmp_path, commands, {"a": left, "b": right}, ready_timeout=0.3)
        with pytest.raises(LaunchError, match=r"not ready after 0.3 s: `b`; logs: "):
            await group.run()
