from __future__ import annotations

from typing import Any

from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.workers.registry import Registry
from tests.unit.router.fake_worker import FakeWorker, Rooms

FLEET = Fleet.model_validate(
    {
        "tasks": {"math": {"prefill": "m", "decode": "d"}, "tool": {"prefill": "t", "decode": "d"}},
        "pools": {
            "m": {"role": "prefill", "model": "x"},
            "t": {"role": "prefill", "model": "x"},
            "d": {"role": "decode", "model": "x"},
        },
        "workers": [
            {"name": n, "pool": n[0], "url": f"http://h{i}:1"} for i, n in enumerate(("m0", "m1", "t0", "d0", "d1"))
        ],
    }
)


def card(role: str, weights: str = "w", **changes: Any) -> WorkerCard:
    return WorkerCard.model_validate(FakeWorker(role, weights, Rooms(), **changes).card)


def proven_registry() -> Registry:
    registry = Registry(FLEET)
    for worker in registry.workers.values():
        assert registry.admit(worker.name, card(worker.role)) == ""
    for path in registry.unproven():
        starts = registry.starts(path)
        assert starts is not None
        assert registry.prove(path, starts)
    return registry
