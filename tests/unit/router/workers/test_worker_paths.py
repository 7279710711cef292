from __future__ import annotations

import pytest

from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.rollout import Rollout
from sun_sglang.router.workers.worker_paths import PathTable, PoolPair, PoolPaths, WorkerPath
from tests.unit.router.registries import DECODES, PREFILLS, admit_all, card, prove_all, shared_pools


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[PoolPair]:
    """Return the pairs of pools whose paths were computed, in order."""
    found: list[PoolPair] = []
    compute = PathTable._compute

    def count(self: PathTable, pools: PoolPair) -> PoolPaths:
        found.append(pools)
        return compute(self, pools)

    monkeypatch.setattr(PathTable, "_compute", count)
    return found


def registry_of_another_decoder() -> Registry:
    """Return workers whose modules were tuned for another decoder, which `task-1` alone accepts. Nothing is proven."""
    fleet = shared_pools()
    lenient = fleet.tasks["task-1"].model_copy(update={"any_decoder": True})
    registry = Registry(fleet.model_copy(update={"tasks": fleet.tasks | {"task-1": lenient}}))
    for name in PREFILLS:
        registry.admit(name, card("prefill", tuned_for="full"))
    for name in DECODES:
        registry.admit(name, card("decode", identity={"decoder": "4-bit"}))
    return registry


def test_paths_of_400_tasks_on_shared_pools_take_one_canary_per_pair_of_workers() -> None:
    registry = Registry(shared_pools())
    admit_all(registry)
    assert len(registry.unproven()) == 4 * 8
    assert prove_all(registry) == 4 * 8
    assert all(len(registry.usable(task)) == 4 * 8 for task in registry.task_names)


@pytest.mark.invariant("I11")
def test_paths_after_a_restart_of_one_worker_are_proven_again_for_its_pairs_alone() -> None:
    registry = Registry(shared_pools())
    admit_all(registry)
    prove_all(registry)
    registry.admit("p1", card("prefill", incarnation="second"))
    assert {path.prefill for path in registry.unproven()} == {"p1"}
    assert all(pair.prefill.name != "p1" for pair in registry.usable("task-0"))
    assert len(registry.usable("task-0")) == 3 * 8
    assert prove_all(registry) == 8


def test_paths_of_many_tasks_are_computed_once_after_each_change(computed: list[PoolPair]) -> None:
    registry = Registry(shared_pools())
    admit_all(registry)
    prove_all(registry)

    def read_all() -> None:
        for _ in range(3):
            registry.unproven()
            registry.unserved()
            for task in registry.task_names:
                registry.usable(task)
                registry.unusable(task)
                registry.limit(task)

    read_all()
    computed.clear()
    read_all()
    assert computed == []
    registry.revoke(WorkerPath("p0", "d0"))
    read_all()
    assert computed == [PoolPair("p", "d", any_decoder=False)]
    registry.drain("d3")
    read_all()
    assert len(computed) == 2


def test_rule_of_a_task_selects_among_proven_paths_and_needs_no_canary() -> None:
    registry = registry_of_another_decoder()
    assert prove_all(registry) == 4 * 8
    assert len(registry.usable("task-1")) == 4 * 8
    assert registry.usable("task-0") == ()
    assert all("was tuned to be decoded by" in one.refusal for one in registry.unusable("task-0"))
    assert len(registry.unusable("task-0")) == 4 * 8
    assert registry.unusable("task-1") == ()


def test_paths_that_no_task_may_use_get_no_canary() -> None:
    registry = Registry(shared_pools())
    for name in PREFILLS:
        registry.admit(name, card("prefill", tuned_for="full"))
    for name in DECODES:
        registry.admit(name, card("decode", identity={"decoder": "4-bit"}))
    assert registry.unproven() == ()


def test_task_that_moves_onto_proven_pools_moves_at_once_without_a_canary() -> None:
    base = shared_pools()
    workers = [{"name": "l0", "pool": "lone", "url": "http://l0:1"}]
    alone = {"prefill": "lone", "decode": "d"}
    document = base.model_dump(mode="json")
    document["workers"] += workers
    document["tasks"]["alone"] = alone
    registry = Registry(Fleet.model_validate(document))
    rollout = Rollout(registry)
    admit_all(registry)
    assert prove_all(registry) == 5 * 8
    document["tasks"]["alone"] = {"prefill": "p", "decode": "d"}
    rollout.change(Fleet.model_validate(document))
    assert registry.fleet.tasks["alone"].prefill == "p"
    assert len(registry.usable("alone")) == 4 * 8
    assert registry.unproven() == ()


@pytest.mark.invariant("I11")
def test_task_that_moves_to_pools_without_a_proof_between_them_stays_until_a_canary_passed() -> None:
    document = shared_pools().model_dump(mode="json")
    document["workers"].append({"name": "l0", "pool": "lone", "url": "http://l0:1"})
    registry = Registry(Fleet.model_validate(document))
    rollout = Rollout(registry)
    admit_all(registry)
    prove_all(registry)
    document["tasks"]["task-7"]["prefill"] = "lone"
    rollout.change(Fleet.model_validate(document))
    assert registry.fleet.tasks["task-7"].prefill == "p"
    assert len(registry.usable("task-7")) == 4 * 8
    assert {path.prefill for path in registry.unproven()} == {"l0"}
    path = registry.unproven()[0]
    starts = registry.starts(path)
    assert starts is not None
    registry.prove(path, starts)
    assert registry.fleet.tasks["task-7"].prefill == "lone"
    assert [pair.path for pair in registry.usable("task-7")] == [path]


@pytest.mark.invariant("I11")
def test_proof_of_workers_whose_cards_differ_since_carries_no_requests() -> None:
    """No task pairs the two pools while the weights of one are replaced, so that its admission compares nothing."""
    document = shared_pools(["p0"], ["d0"]).model_dump(mode="json")
    document["workers"].append({"name": "l0", "pool": "lone", "url": "http://l0:1"})
    document["tasks"]["task-0"]["prefill"] = "lone"
    registry = Registry(Fleet.model_validate(document))
    rollout = Rollout(registry)
    admit_all(registry)
    prove_all(registry)
    document["tasks"]["task-0"]["prefill"] = "p"
    rollout.change(Fleet.model_validate(document))
    same_start = registry.workers["l0"].incarnation
    changed = card("prefill", incarnation=same_start, identity={"architecture": "Other"})
    assert registry.admit("l0", changed) == ""
    document["tasks"]["task-0"]["prefill"] = "lone"
    rollout.change(Fleet.model_validate(document))
    assert registry.fleet.tasks["task-0"].prefill == "p"
    (refused,) = [one for one in registry.unusable("task-0") if one.path.prefill == "l0"]
    assert refused.refusal.startswith("architecture differs")


def test_limit_of_a_task_that_never_had_a_usable_pair_is_not_that_of_a_task_with_any_decoder() -> None:
    registry = registry_of_another_decoder()
    prove_all(registry)
    assert registry.limit("task-1") is not None
    registry.drain("p0")
    assert registry.usable("task-0") == ()
    assert registry.limit("task-0") is None
