from __future__ import annotations

from collections.abc import Iterable
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


TASKS = 400
PREFILLS, DECODES = [f"p{i}" for i in range(4)], [f"d{i}" for i in range(8)]


def shared_pools(prefills: Iterable[str] = PREFILLS, decodes: Iterable[str] = DECODES, **task: object) -> Fleet:
    """Return 400 tasks, all on one prefill and one decode pool; `lone` is a second prefill pool without a task."""
    return Fleet.model_validate(
        {
            "tasks": {f"task-{i}": {"prefill": "p", "decode": "d", **task} for i in range(TASKS)},
            "pools": {
                "p": {"role": "prefill", "model": "x"},
                "lone": {"role": "prefill", "model": "x"},
                "d": {"role": "decode", "model": "x"},
            },
            "workers": [{"name": n, "pool": n[0], "url": f"http://{n}:1"} for n in (*prefills, *decodes)],
        }
    )


def admit_all(registry: Registry) -> None:
    for worker in registry.workers.values():
        assert registry.admit(worker.name, card(worker.role)) == ""


def prove_all(registry: Registry) -> int:
    """Prove what is unproven until nothing is, and return the number of canaries that this takes."""
    sent = 0
    while paths := registry.unproven():
        for path in paths:
            starts = registry.starts(path)
            assert starts is not None
            assert registry.prove(path, starts)
            sent += 1
    return sent
