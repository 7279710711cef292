"""Adapters and modules, and fleets of tasks that use them, for the router's tests."""

from __future__ import annotations

from typing import Any

from sun_sglang.contracts.adapter import AdapterRef, Fingerprint
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.router.workers.registry import Registry
from tests.unit.router.registries import shared_pools

MODULE_LIMITS = {"host_bytes": 1 << 30}
LIMITS = {"max_rank": 16, "target_modules": ["q_proj", "v_proj"], "slots": 8}


def adapter(number: int, fingerprint: Fingerprint | None = None, **changes: Any) -> AdapterRef:
    """Return an adapter with a revision of its own."""
    fields = {
        "directory": f"/adapters/{number}",
        "revision": f"{number:016x}",
        "rank": 8,
        "target_modules": ("q_proj",),
        "fingerprint": fingerprint,
    }
    return AdapterRef.model_validate({**fields, **changes})


def module(number: int, **changes: Any) -> ModuleRef:
    """Return a module with a revision of its own."""
    fields = {"directory": f"/modules/{number}", "revision": f"{number:016x}", "size": 1000}
    return ModuleRef.model_validate({**fields, **changes})


def adapter_tasks(count: int, **task: object) -> Fleet:
    """Return tasks of shared pools (`registries.shared_pools`), of which the first `count` have an adapter each."""
    fleet = shared_pools(**task)
    with_adapter = {
        f"task-{i}": fleet.tasks[f"task-{i}"].model_copy(update={"adapter": adapter(i)}) for i in range(count)
    }
    return fleet.model_copy(update={"tasks": {**fleet.tasks, **with_adapter}})


def prove_weights(registry: Registry, *workers: str) -> None:
    """Prove all weights that these prefill workers need."""
    for name in workers:
        worker = registry.workers[name]
        for needed in registry.weights.needed(worker.spec.pool):
            assert registry.weights.prove(name, worker.incarnation, needed)
