"""A load monitor that fails."""

from __future__ import annotations

import asyncio
import json
from io import StringIO

import pytest

from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.app import Router
from sun_sglang.router.health.load_monitor import LoadMonitor
from sun_sglang.router.observability.log import Log
from tests.unit.router.conftest import DEADLINES, PATIENCE_S

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
            await router.failed.wait()
    finally:
        await router.stop(0.0)
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    assert any(e["event"] == "defect" and "nobody thought of this" in e["trace"] for e in events)
