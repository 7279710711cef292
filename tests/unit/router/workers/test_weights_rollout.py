"""Changes of a fleet whose tasks have adapters, and tasks that leave it."""

from __future__ import annotations

import pytest

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.rollout import Rollout
from tests.unit.router.registries import DECODES, PREFILLS, card, prove_all
from tests.unit.router.weights_refs import LIMITS, adapter, adapter_tasks, prove_weights


def start(fleet: Fleet, busy: set[str] | None = None) -> tuple[Registry, Rollout]:
    """Return workers with proven paths and adapters. `busy`: names of the tasks that have requests."""
    registry = Registry(fleet)
    rollout = Rollout(registry, (busy or set()).__contains__)
    for name in PREFILLS:
        registry.admit(name, card("prefill", adapters=LIMITS))
    for name in DECODES:
        registry.admit(name, card("decode"))
    prove_all(registry)
    prove_weights(registry, *PREFILLS)
    return registry, rollout


def with_task(fleet: Fleet, name: str, made: AdapterRef | None, prefill: str = "p") -> Fleet:
    task = fleet.tasks["task-0"].model_copy(update={"adapter": made, "prefill": prefill})
    return fleet.model_copy(update={"tasks": {**fleet.tasks, name: task}})


def without_task(fleet: Fleet, name: str) -> Fleet:
    return fleet.model_copy(update={"tasks": {n: task for n, task in fleet.tasks.items() if n != name}})


def served(registry: Registry, task: str) -> set[AdapterRef | None]:
    return {pair.weights for pair in registry.usable(task)}


@pytest.mark.invariant("I23")
def test_task_with_another_adapter_keeps_the_old_one_until_the_new_one_is_proven() -> None:
    registry, rollout = start(adapter_tasks(2))
    rollout.change(with_task(registry.wanted, "task-0", adapter(9)))
    assert served(registry, "task-0") == {adapter(0)}
    assert set(registry.weights.needed("p")) == {adapter(0), adapter(1), adapter(9)}
    prove_weights(registry, "p2")
    assert served(registry, "task-0") == {adapter(9)}
    assert {pair.prefill.name for pair in registry.usable("task-0")} == {"p2"}
    assert set(registry.weights.needed("p")) == {adapter(1), adapter(9)}
    assert registry.fleet is registry.wanted


def test_new_task_with_an_adapter_is_unknown_until_it_is_proven() -> None:
    registry, rollout = start(adapter_tasks(1))
    rollout.change(with_task(registry.wanted, "new", adapter(9)))
    assert "new" not in registry.task_names
    prove_weights(registry, "p0")
    assert "new" in registry.task_names
    assert served(registry, "new") == {adapter(9)}


def test_task_that_loses_its_adapter_moves_at_once() -> None:
    registry, rollout = start(adapter_tasks(1))
    rollout.change(with_task(registry.wanted, "task-0", None))
    assert served(registry, "task-0") == {None}
    assert not registry.weights.needed("p")


@pytest.mark.invariant("I14")
def test_removed_task_with_requests_keeps_its_pairs_and_its_adapter_until_they_have_ended() -> None:
    busy = {"task-0"}
    registry, rollout = start(adapter_tasks(2), busy)
    rollout.change(without_task(without_task(registry.wanted, "task-0"), "task-1"))
    assert not {"task-0", "task-1"} & set(registry.task_names)
    assert served(registry, "task-0") == {adapter(0)}
    assert served(registry, "task-1") == set()
    assert set(registry.weights.needed("p")) == {adapter(0)}
    busy.clear()
    registry.progress()
    assert served(registry, "task-0") == set()
    assert not registry.weights.needed("p")
    assert registry.fleet is registry.wanted


@pytest.mark.invariant("I14")
def test_pool_of_a_removed_task_keeps_its_workers_until_the_requests_of_the_task_have_ended() -> None:
    busy = {"alone"}
    document = adapter_tasks(0).model_dump(mode="json")
    document["workers"].append({"name": "l0", "pool": "lone", "url": "http://l0:1"})
    document["tasks"]["alone"] = {"prefill": "lone", "decode": "d"}
    registry, rollout = start(Fleet.model_validate(document), busy)
    registry.admit("l0", card("prefill"))
    prove_all(registry)
    del document["tasks"]["alone"], document["pools"]["lone"]
    document["workers"].pop()
    rollout.change(Fleet.model_validate(document))
    assert {pair.prefill.name for pair in registry.usable("alone")} == {"l0"}
    busy.clear()
    registry.progress()
    assert "l0" not in registry.workers
    assert registry.usable("alone") == ()


def test_removed_task_that_is_added_again_is_served_with_its_new_settings() -> None:
    busy = {"task-0"}
    registry, rollout = start(adapter_tasks(1), busy)
    rollout.change(without_task(registry.wanted, "task-0"))
    rollout.change(with_task(adapter_tasks(0), "task-0", None))
    assert registry.leaving == {}
    assert served(registry, "task-0") == {None}
    assert not registry.weights.needed("p")


def test_trial_of_a_task_needs_its_paths_and_its_adapter_and_serves_nothing() -> None:
    registry, _ = start(adapter_tasks(1))
    task = registry.fleet.tasks["task-0"].model_copy(update={"adapter": adapter(9)})
    registry.begin_trial(task)
    registry.begin_trial(task)
    assert set(registry.weights.needed("p")) == {adapter(0), adapter(9)}
    prove_weights(registry, "p0")
    assert registry.can_serve(task)
    registry.end_trial(task)
    assert registry.can_serve(task)
    registry.end_trial(task)
    assert set(registry.weights.needed("p")) == {adapter(0)}
    assert not registry.can_serve(task)
    assert len(registry.task_names) == 400
