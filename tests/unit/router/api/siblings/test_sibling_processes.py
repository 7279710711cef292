"""Two routers on one port, which share their loads and answer for each other."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.app import Router
from sun_sglang.router.observability.log import Log
from tests.support.ports import PORTS
from tests.unit.router.conftest import DEADLINES
from tests.unit.router.fake_worker import FakeWorker, Fault, Rooms

PROBES = ("/readyz", "/ping", "/health", "/readyz?task=math")
ASK = {"model": "math", "input_ids": [5, 6, 7]}


class Two:
    """Two router processes' worth of routers in this process, on one port, over fake workers."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self.workers: dict[str, FakeWorker] = {}
        self.routers: list[Router] = []

    async def post(self, process: int, path: str, body: Any) -> tuple[int, Any]:
        """Send a request to one process, over its own socket."""
        connector = aiohttp.UnixConnector(self.routers[process].siblings.address(self.home / f"router-{process}.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.post(f"http://router{path}", json=body) as r,
        ):
            raw = await r.read()
            return r.status, orjson.loads(raw) if raw else None

    async def status(self, process: int, path: str) -> int:
        """Return the status of a GET to one process, over its own socket."""
        connector = aiohttp.UnixConnector(self.routers[process].siblings.address(self.home / f"router-{process}.sock"))
        async with aiohttp.ClientSession(connector=connector) as client, client.get(f"http://router{path}") as r:
            return r.status

    home: Path


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    system = Two()
    system.home = tmp_path
    for name, role in (("math-0", "prefill"), ("base-0", "decode"), ("base-1", "decode")):
        system.workers[name] = FakeWorker(role, f"w-{name[:4]}", system.rooms)
        await system.workers[name].start()
    fleet = {
        "tasks": {"math": {"prefill": "math", "decode": "base"}},
        "pools": {"math": {"role": "prefill", "model": "m"}, "base": {"role": "decode", "model": "b"}},
        "workers": [{"name": n, "pool": n[:4], "url": w.url} for n, w in system.workers.items()],
        "router": {"port": next(PORTS), "processes": 2, "probe_interval": 0.05, "load_interval": 0},
    }
    path = tmp_path / "fleet.json"
    path.write_bytes(orjson.dumps(fleet))
    for process in range(2):
        system.routers.append(
            await Router.start(Fleet.model_validate(fleet), Log(io.StringIO()), path, process, DEADLINES)
        )
    await wait_until(lambda: not any(r.registry.unproven() or r.registry.unserved() for r in system.routers))
    yield system
    for router in system.routers:
        await router.stop(0.0)
    for worker in system.workers.values():
        await worker.stop()


async def test_one_process_leaves_alone_what_another_has_loaded(two: Two) -> None:
    for name in ("base-0", "base-1"):
        two.workers[name].fault = Fault(hang_after=2)
    held = []
    for process in (0, 1, 0, 1):
        held.append(asyncio.create_task(two.post(process, "/generate", {**ASK, "rid": f"r{len(held)}"})))
        await wait_until(lambda: sum(len(w.running) for w in two.workers.values()) >= len(held))
        await wait_until(lambda: sum(len(two.workers[f"base-{i}"].running) for i in range(2)) == len(held))
        counts = sorted(len(two.workers[f"base-{i}"].running) for i in range(2))
        assert counts[1] - counts[0] <= 1, "as one router would spread them"
    # any process ends a request, whichever has it
    for i in range(4):
        assert (await two.post(0, "/abort_request", {"rid": f"r{i}"}))[0] == 200
    assert [status for status, _ in await asyncio.gather(*held)] == [200] * 4
    for router in two.routers:
        await wait_until(
            lambda router=router: all(w.load.total_requests == 0 for w in router.registry.workers.values())
        )


async def test_what_is_asked_of_one_is_answered_for_both(two: Two) -> None:
    for process in (0, 1, 1):
        assert (await two.post(process, "/generate", ASK))[0] == 200
    async with aiohttp.ClientSession() as client:
        for _ in range(4):
            async with client.get(f"{two.routers[0].url}/metrics", headers={"Connection": "close"}) as r:
                page = await r.text()
            for process, count in ((0, 1.0), (1, 2.0)):
                assert f'sun_requests_total{{process="{process}",outcome="ok",task="math"}} {count}' in page
        async with client.get(f"{two.routers[0].url}/tasks") as r:
            assert (await r.json())["ready"]
    await two.routers[1].stop(0.0)
    # with connections of its own: an older one may be the other process's
    async with aiohttp.ClientSession() as client, client.get(f"{two.routers[0].url}/tasks") as r:
        assert not (await r.json())["ready"]


async def test_readiness_is_that_of_all_processes_and_life_that_of_one(two: Two) -> None:
    assert [await two.status(0, path) for path in PROBES] == [200] * len(PROBES)
    two.routers[1].draining.active = True
    assert [await two.status(0, path) for path in PROBES] == [503] * len(PROBES)
    assert [await two.status(process, "/livez") for process in range(2)] == [200, 200]


async def test_a_change_reaches_every_process(two: Two) -> None:
    assert (await two.post(0, "/workers/base-0/drain", None))[0] == 200
    await wait_until(lambda: all(r.registry.workers["base-0"].draining for r in two.routers))
