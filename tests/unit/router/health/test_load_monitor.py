from __future__ import annotations

import asyncio
import json
from io import StringIO

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.app import Router
from sun_sglang.router.health.load_monitor import LoadMonitor
from sun_sglang.router.observability.log import Log
from tests.unit.router.conftest import DEADLINES, PATIENCE_S, Start, System

FLEET = {
    "tasks": {"math": {"prefill": "p", "decode": "d"}},
    "pools": {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}},
    "workers": [{"name": "p-0", "pool": "p", "url": "http://127.0.0.1:9"}],
    "router": {"port": 0},
}


async def test_a_watch_that_fails_ends_the_router(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: LoadMonitor) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(LoadMonitor, "run", broken)
    log = StringIO()
    router = await Router.start(Fleet.model_validate(FLEET), Log(log), deadlines=DEADLINES)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await router.loops.failed.wait()
    finally:
        await router.stop(0.0)
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    assert any(e["event"] == "defect" and "nobody thought of this" in e["trace"] for e in events)


async def test_a_worker_that_others_load_is_left_alone(start: Start) -> None:
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 2}, router={"load_interval": 0.01})
    system["base-0"].load = {"num_running_reqs": 3, "num_total_tokens": 9000}
    loaded = system.router.registry.workers["base-0"]
    await wait_until(lambda: (loaded.load.external_requests, loaded.load.external_tokens) == (3, 9000))
    for _ in range(4):
        await system.post("/generate", {"model": "math", "text": "hi"})
        await system.quiet()
    assert (len(system["base-0"].requests), len(system["base-1"].requests)) == (0, 4)
    system["base-0"].load = {}
    await wait_until(lambda: loaded.load.external_tokens == 0)
