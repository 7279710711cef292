from __future__ import annotations

import pytest

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.rollout import Rollout
from sun_sglang.router.workers.weights_table import WeightsTable
from sun_sglang.router.workers.worker_paths import Pair, PathTable
from tests.unit.router.registries import DECODES, PREFILLS, card, prove_all
from tests.unit.router.weights_refs import LIMITS, MODULE_LIMITS, adapter, adapter_tasks, module, prove_weights


def registry_of(fleet: Fleet) -> Registry:
    """Return workers that accept adapters, with proven paths and no proven adapter."""
    registry = Registry(fleet)
    for name in PREFILLS:
        assert registry.admit(name, card("prefill", adapters=LIMITS)) == ""
    for name in DECODES:
        assert registry.admit(name, card("decode")) == ""
    prove_all(registry)
    return registry


def prefills(pairs: tuple[Pair, ...]) -> set[str]:
    return {pair.prefill.name for pair in pairs}


@pytest.mark.invariant("I23")
def test_task_with_an_adapter_is_served_by_the_workers_on_which_it_is_proven() -> None:
    registry = registry_of(adapter_tasks(2))
    assert registry.usable("task-0") == ()
    assert len(registry.usable("task-2")) == 4 * 8
    assert registry.weights.prove("p1", registry.workers["p1"].incarnation, adapter(0))
    assert prefills(registry.usable("task-0")) == {"p1"}
    assert len(registry.usable("task-0")) == 8
    assert {pair.weights for pair in registry.usable("task-0")} == {adapter(0)}
    assert {pair.weights for pair in registry.usable("task-2")} == {None}
    assert registry.usable("task-1") == ()


def test_400_adapters_on_shared_pools_need_one_canary_per_pair_of_workers_and_are_needed_once() -> None:
    registry = Registry(adapter_tasks(400))
    for name in PREFILLS:
        registry.admit(name, card("prefill", adapters=LIMITS))
    for name in DECODES:
        registry.admit(name, card("decode"))
    assert prove_all(registry) == 4 * 8
    assert tuple(registry.weights.needed("p")) == tuple(adapter(i) for i in range(400))
    assert not registry.weights.needed("lone")


def test_two_tasks_with_equal_adapters_need_one() -> None:
    fleet = adapter_tasks(1)
    again = fleet.tasks["task-1"].model_copy(update={"adapter": adapter(0)})
    registry = registry_of(fleet.model_copy(update={"tasks": {**fleet.tasks, "task-1": again}}))
    assert set(registry.weights.needed("p")) == {adapter(0)}
    prove_weights(registry, "p0")
    assert prefills(registry.usable("task-0")) == prefills(registry.usable("task-1")) == {"p0"}


@pytest.mark.invariant("I23")
def test_proof_of_an_adapter_is_void_after_a_restart_of_the_worker_alone() -> None:
    registry = registry_of(adapter_tasks(1))
    prove_weights(registry, "p0", "p1")
    before = registry.workers["p0"].incarnation
    registry.admit("p0", card("prefill", adapters=LIMITS, incarnation="second"))
    prove_all(registry)
    assert prefills(registry.usable("task-0")) == {"p1"}
    assert prefills(registry.usable("task-1")) == set(PREFILLS)
    assert not registry.weights.prove("p0", before, adapter(0)), "the canary was sent to another start"
    assert prefills(registry.usable("task-0")) == {"p1"}


def test_broken_connection_of_a_worker_leaves_its_adapters_proven() -> None:
    registry = registry_of(adapter_tasks(1))
    prove_weights(registry, "p0")
    registry.eject("p0", "a connection broke", gone=False)
    assert registry.usable("task-0") == ()
    registry.admit("p0", card("prefill", adapters=LIMITS))
    prove_all(registry)
    assert prefills(registry.usable("task-0")) == {"p0"}


def test_revoked_adapter_is_not_served_by_that_worker_until_it_is_proven_again() -> None:
    registry = registry_of(adapter_tasks(2))
    prove_weights(registry, "p0", "p1")
    asked: list[str] = []
    registry.weights.on_needed.append(lambda: asked.append("needed"))
    start = registry.workers["p0"].incarnation
    registry.weights.revoke("p0", "an earlier start", adapter(0))
    assert prefills(registry.usable("task-0")) == {"p0", "p1"}
    registry.weights.revoke("p0", start, adapter(0))
    assert asked == ["needed"]
    assert prefills(registry.usable("task-0")) == {"p1"}
    assert prefills(registry.usable("task-1")) == {"p0", "p1"}
    registry.weights.prove("p0", start, adapter(0))
    assert prefills(registry.usable("task-0")) == {"p0", "p1"}


@pytest.mark.invariant("I23")
def test_proof_of_an_adapter_is_void_after_an_update_of_the_workers_weights() -> None:
    registry = registry_of(adapter_tasks(1))
    prove_weights(registry, *PREFILLS)
    updated = card(
        "prefill", adapters=LIMITS, identity={"weights": "v"}, incarnation=registry.workers["p0"].incarnation
    )
    for name in PREFILLS[1:]:
        registry.eject(name, "updated too", gone=True)
    assert registry.admit("p0", updated) == ""
    prove_all(registry)
    assert registry.usable("task-0") == ()
    prove_weights(registry, "p0")
    assert prefills(registry.usable("task-0")) == {"p0"}


def test_worker_whose_card_changes_to_refuse_an_adapter_does_not_serve_it() -> None:
    registry = registry_of(adapter_tasks(1))
    prove_weights(registry, *PREFILLS)
    registry.admit("p0", card("prefill", adapters={**LIMITS, "max_rank": 4}))
    assert prefills(registry.usable("task-0")) == {"p1", "p2", "p3"}
    (obstacle,) = registry.weights.obstacles("p", adapter(0))
    assert obstacle.worker == "p0"
    assert obstacle.refusal == "the adapter has rank 8, and it accepts up to 4 (`max_lora_rank`)"


def test_obstacles_of_an_adapter_are_the_admitted_workers_that_lack_it() -> None:
    registry = registry_of(adapter_tasks(1))
    prove_weights(registry, "p0", "p1")
    registry.eject("p2", "gone", gone=True)
    assert [tuple(one) for one in registry.weights.obstacles("p", adapter(0))] == [("p3", "")]


def test_pairs_of_adapters_are_selected_once_after_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request costs two lookups, whatever the number of tasks."""
    registry = registry_of(adapter_tasks(400))
    prove_weights(registry, *PREFILLS)
    selected: list[AdapterRef] = []
    serves = WeightsTable._serves

    def count(self: WeightsTable, worker: object, one: AdapterRef) -> bool:
        selected.append(one)
        return serves(self, worker, one)  # type: ignore[arg-type]  # it is passed on

    monkeypatch.setattr(WeightsTable, "_serves", count)

    def read_all() -> None:
        for task in registry.task_names:
            assert registry.usable(task)
            registry.limit(task)
        registry.unproven()

    read_all()
    selected.clear()
    read_all()
    assert selected == []
    registry.weights.revoke("p0", registry.workers["p0"].incarnation, adapter(7))
    read_all()
    assert set(selected) == {adapter(7)}


def test_paths_of_400_adapters_are_compared_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_of(adapter_tasks(400))
    computed: list[object] = []
    compute = PathTable._compute
    monkeypatch.setattr(PathTable, "_compute", lambda self, pools: computed.append(pools) or compute(self, pools))
    registry.drain("d0")
    for task in registry.task_names:
        registry.usable(task)
    assert len(computed) == 1


@pytest.mark.parametrize(
    ("of_adapter", "of_decode", "any_decoder", "why"),
    [
        ({"tuned_for": "w"}, {}, False, ""),
        ({"tuned_for": "other"}, {}, False, "the task's adapter on `p0` was tuned to be decoded by weights other"),
        ({"tuned_for": "other"}, {}, True, ""),
        ({}, {"tuned_on": "w"}, False, "`d0` was tuned on prompts that weights w prefill, and the task's adapter"),
        ({}, {"tuned_on": "w"}, True, ""),
        (
            {"tuned_for": "w", "first_token": "decode"},
            {"patches": [{"name": "p", "target": "t", "state": "applied"}]},
            False,
            "the decode module makes the first token for `p0` and `d0`, and `d0` has no hook",
        ),
    ],
)
def test_decoder_for_which_an_adapter_was_not_made_is_refused(
    of_adapter: dict[str, str], of_decode: dict[str, object], any_decoder: bool, why: str
) -> None:
    fleet = adapter_tasks(0)
    made = {"adapter": adapter(0, **of_adapter), "any_decoder": any_decoder}
    task = fleet.tasks["task-0"].model_copy(update=made)
    registry = Registry(fleet.model_copy(update={"tasks": {"task-0": task}}))
    registry.admit("p0", card("prefill", adapters=LIMITS))
    registry.admit("d0", card("decode", **of_decode))
    assert len(registry.unproven()) == (0 if why else 1)
    assert [one.refusal.startswith(why) for one in registry.unusable("task-0")] == [True]


@pytest.mark.parametrize(
    ("of_adapter", "of_prefill", "side"),
    [
        ({"tuned_for": "w", "first_token": "decode"}, {}, "decode"),
        ({"tuned_for": "w", "first_token": "prefill"}, {"tuned_for": "w", "first_token": "decode"}, "prefill"),
        ({}, {"tuned_for": "w", "first_token": "decode"}, "decode"),
        ({}, {}, "prefill"),
    ],
)
def test_adapter_that_was_tuned_for_the_decoder_decides_which_side_makes_the_first_token(
    of_adapter: dict[str, str], of_prefill: dict[str, str], side: str
) -> None:
    fleet = adapter_tasks(0)
    task = fleet.tasks["task-0"].model_copy(update={"adapter": adapter(0, **of_adapter)})
    registry = Registry(fleet.model_copy(update={"tasks": {"task-0": task}}))
    registry.admit("p0", card("prefill", adapters=LIMITS, **of_prefill))
    registry.admit("d0", card("decode"))
    prove_all(registry)
    prove_weights(registry, "p0")
    (pair,) = registry.usable("task-0")
    assert pair.first_token == side


@pytest.mark.parametrize(
    ("of_module", "of_prefill", "of_decode", "side", "why"),
    [
        ({"tuned_for": "w", "first_token": "decode"}, {}, {}, "decode", ""),
        # nothing of the pool's model is left under a module
        ({}, {"tuned_for": "w", "first_token": "decode"}, {}, "prefill", ""),
        ({}, {"tuned_for": "other"}, {}, "prefill", ""),
        ({"tuned_for": "other"}, {"tuned_for": "w"}, {}, "", "the task's module on `p0` was tuned to be decoded by"),
        ({}, {}, {"tuned_on": "w"}, "", "`d0` was tuned on prompts that weights w prefill, and the task's module on"),
    ],
)
def test_module_decides_by_itself_which_decoder_may_follow_and_which_side_makes_the_first_token(
    of_module: dict[str, str], of_prefill: dict[str, str], of_decode: dict[str, str], side: str, why: str
) -> None:
    fleet = adapter_tasks(0)
    task = fleet.tasks["task-0"].model_copy(update={"module": module(0, **of_module)})
    registry = Registry(fleet.model_copy(update={"tasks": {"task-0": task}}))
    registry.admit("p0", card("prefill", modules=MODULE_LIMITS, **of_prefill))
    registry.admit("d0", card("decode", **of_decode))
    prove_all(registry)
    prove_weights(registry, "p0")
    assert [pair.first_token for pair in registry.usable("task-0")] == ([side] if side else [])
    assert [one.refusal.startswith(why) for one in registry.unusable("task-0")] == ([True] if why else [])


def test_tasks_of_a_fleet_that_is_read_again_are_the_same_objects_unless_they_differ() -> None:
    registry = registry_of(adapter_tasks(400))
    rollout = Rollout(registry)
    prove_weights(registry, *PREFILLS)
    before, needed = registry.fleet.tasks, registry.weights.needed("p")
    document = registry.fleet.model_dump(mode="json")
    document["tasks"]["task-7"]["weight"] = 2
    rollout.change(Fleet.model_validate(document))
    assert [name for name, task in registry.fleet.tasks.items() if task is not before[name]] == ["task-7"]
    assert registry.fleet.tasks["task-7"].weight == 2
    assert registry.weights.needed("p") is needed, "no path has changed"
