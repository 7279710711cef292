from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.router.app import Router
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from tests.unit.router.fake_worker import FakeWorker, Rooms
from tests.unit.router.weights_refs import LIMITS, MODULE_LIMITS

# only turns a hang into a failure
PATIENCE_S = 60.0


class System:
    """A router over fake workers, and a client."""

    def __init__(self, rooms: Rooms, workers: dict[str, FakeWorker], log: io.StringIO) -> None:
        self.rooms = rooms
        self.workers = workers
        self.log = log
        self.router: Router
        self.client: aiohttp.ClientSession

    def __getitem__(self, name: str) -> FakeWorker:
        return self.workers[name]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.log.getvalue().splitlines()]

    async def ready(self) -> None:
        await wait_until(lambda: not self.router.registry.unproven() and not self.router.registry.unserved())

    async def quiet(self) -> None:
        """Wait until nothing is in flight anywhere: no leg, no load on a worker, no ticket."""
        await wait_until(lambda: not any(w.running for w in self.workers.values()))
        await wait_until(
            lambda: not any(w.load.requests or w.load.tokens for w in self.router.registry.workers.values())
        )
        await wait_until(lambda: not self.router.in_flight.tickets)

    async def post(self, path: str, body: Any, **kwargs: Any) -> tuple[int, Any]:
        async with self.client.post(path, json=body, **kwargs) as r:
            raw = await r.read()
            return r.status, orjson.loads(raw) if raw else None

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(path) as r:
            return r.status, orjson.loads(await r.read())

    async def events_of(self, path: str, body: Any) -> list[Any]:
        """Return the data of every event of a stream; `[DONE]` as a string."""
        async with self.client.post(path, json=body) as r:
            assert r.status == 200, await r.text()
            assert r.content_type == "text/event-stream"
            raw = (await r.read()).decode()
        lines = [e.removeprefix("data: ") for e in raw.split("\n\n") if e]
        return [e if e == "[DONE]" else orjson.loads(e) for e in lines]

    def metric(self, name: str, **labels: str) -> float:
        return self.router.metrics.registry.get_sample_value(name, labels) or 0.0


Start = Callable[..., Any]


# Limits for what a worker or a sibling does at once. Here all of them are in this process: where it gets no CPU for a
# while, no worker is at fault. A test of one of these sets it again.
DEADLINES = Deadlines(
    connect=PATIENCE_S,
    keepalive=PATIENCE_S,
    abort=PATIENCE_S,
    liveness=PATIENCE_S,
    canary=PATIENCE_S,
    probe=PATIENCE_S,
    linger=PATIENCE_S,
    load_report=PATIENCE_S,
    stall_report=PATIENCE_S,
    token_count=PATIENCE_S,
    worker_info=PATIENCE_S,
    client_handshake=PATIENCE_S,
    sibling=PATIENCE_S,
    shutdown=PATIENCE_S,
)


def set_deadlines(part: Any, **seconds: float) -> None:
    """Give a running part of the router other deadlines."""
    part._deadlines = replace(part._deadlines, **seconds)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sun_sglang.launch.router_client._REPORT_TIMEOUT", aiohttp.ClientTimeout(total=PATIENCE_S))


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a system and wait until it is ready: `await start({"math": ("math", "base")}, {"math": 1, "base": 2})`."""
    started: list[System] = []

    async def begin(
        tasks: dict[str, tuple[str, str]],
        pools: dict[str, int],
        *,
        router: dict[str, Any] | None = None,
        cards: dict[str, dict[str, Any]] | None = None,
        wait: bool = True,
        deadlines: Deadlines = DEADLINES,
        adapters: dict[str, AdapterRef] | None = None,
        modules: dict[str, ModuleRef] | None = None,
        failover: bool = True,
        **more: Any,
    ) -> System:
        rooms = Rooms()
        roles = {p: "prefill" for p, _ in tasks.values()} | {d: "decode" for _, d in tasks.values()}
        workers: dict[str, FakeWorker] = {}
        for pool, count in pools.items():
            for i in range(count):
                name = f"{pool}-{i}"
                changes: dict[str, Any] = {}
                if roles[pool] == "prefill":
                    changes = ({"adapters": LIMITS} if adapters else {}) | (
                        {"modules": MODULE_LIMITS} if modules else {}
                    )
                changes |= (cards or {}).get(name, {})
                workers[name] = FakeWorker(roles[pool], f"w-{pool}", rooms, **changes)
                await workers[name].start()
        log = io.StringIO()
        system = System(rooms, workers, log)
        fleet = Fleet.model_validate(
            {
                "tasks": {
                    name: {
                        "prefill": p,
                        "decode": d,
                        "adapter": (adapters or {}).get(name),
                        "module": (modules or {}).get(name),
                        "failover": failover,
                    }
                    for name, (p, d) in tasks.items()
                },
                "pools": {name: {"role": roles[name], "model": f"models/{name}"} for name in pools},
                "workers": [{"name": n, "pool": n.rsplit("-", 1)[0], "url": w.url} for n, w in workers.items()],
                "router": {"port": 0, "probe_interval": 0.05, **(router or {})},
                **more,
            }
        )
        system.router = await Router.start(fleet, Log(log), deadlines=deadlines)
        system.client = aiohttp.ClientSession(
            base_url=system.router.url, timeout=aiohttp.ClientTimeout(total=2 * PATIENCE_S)
        )
        started.append(system)
        if wait:
            await system.ready()
        return system

    yield begin
    for system in started:
        await system.client.close()
        await system.router.stop(0.0)
        for worker in system.workers.values():
            await worker.stop()


SUN = {"math": ("math", "base"), "tool": ("tool", "base")}
SMALL = {"math": 1, "tool": 1, "base": 1}


@pytest.fixture
async def sun(start: Start) -> System:
    """Start two tasks with two prefill workers each, and two shared decode workers."""
    system: System = await start(SUN, {"math": 2, "tool": 2, "base": 2})
    return system


@pytest.fixture
async def small(start: Start) -> System:
    """Start two tasks with one worker in each pool."""
    system: System = await start(SUN, SMALL)
    return system
