from __future__ import annotations

from typing import Any

from tests.unit.router.conftest import System
from tests.unit.router.fake_worker import FakeWorker

IDS = [5, 6, 7]
ASK = {"model": "math", "input_ids": IDS}


async def another(system: System, name: str, role: str, weights: str) -> FakeWorker:
    system.workers[name] = FakeWorker(role, weights, system.rooms)
    await system[name].start()
    return system[name]


async def call(system: System, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with system.client.request(method, path, json=body) as r:
        return r.status, await r.json()
