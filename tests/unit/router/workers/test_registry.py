from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import State
from sun_sglang.router.workers.worker_paths import Starts, WorkerPath
from tests.unit.router.fake_worker import HOOK
from tests.unit.router.registries import FLEET, card, proven_registry


@pytest.mark.invariant("I11")
def test_only_proven_paths_are_used() -> None:
    registry = Registry(FLEET)
    assert registry.unproven() == ()
    registry.admit("m0", card("prefill"))
    registry.admit("d0", card("decode"))
    assert registry.unproven() == (WorkerPath("m0", "d0"),)
    assert registry.usable("math") == ()
    assert registry.state("m0") is State.REGISTERING
    starts = registry.starts(WorkerPath("m0", "d0"))
    assert starts is not None
    assert registry.prove(WorkerPath("m0", "d0"), starts)
    assert [(p.prefill.name, p.decode.name) for p in registry.usable("math")] == [("m0", "d0")]
    assert registry.usable("tool") == ()
    assert registry.unserved() == ["tool"]
    assert registry.state("m0") is State.READY


@pytest.mark.invariant("I11")
def test_a_canary_of_an_old_incarnation_proves_nothing() -> None:
    registry = Registry(FLEET)
    registry.admit("m0", card("prefill"))
    registry.admit("d0", card("decode"))
    path = WorkerPath("m0", "d0")
    before = registry.starts(path)
    assert before is not None
    registry.admit("d0", card("decode", incarnation="another"))
    assert not registry.prove(path, before)
    assert registry.usable("math") == ()


def test_a_restart_takes_the_paths_and_the_requests_with_it() -> None:
    registry = proven_registry()
    lost: list[str] = []
    registry.workers["d0"].add_loss_callback(lost.append)
    registry.admit("d0", card("decode"))
    assert lost == []
    registry.admit("d0", card("decode", incarnation="new"))
    assert lost == ["the worker restarted"]
    assert {p.decode.name for p in registry.usable("math")} == {"d1"}


def test_an_ejected_worker_keeps_its_requests_unless_it_is_gone() -> None:
    registry = proven_registry()
    lost: list[str] = []
    registry.workers["d0"].add_loss_callback(lost.append)
    registry.eject("d0", "late", gone=False)
    assert lost == []
    assert registry.state("d0") is State.ABSENT
    registry.admit("d0", card("decode"))
    assert lost == []
    assert registry.state("d0") is State.REGISTERING
    registry.eject("d0", "dead", gone=True)
    assert lost == ["dead"]


@pytest.mark.invariant("I12")
@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("m0", {"role": "decode"}, "it is a decode worker, and pool `m` is a prefill pool"),
        ("m0", {"bootstrap_port": None}, "bootstrap port"),
        ("d0", {"identity": {"page_size": 64}}, "page_size differs from `m1`'s (d0: 64, m1: 1)"),
        ("d0", {"identity": {"kv_cache_dtype": "bf16"}}, "(d0: bf16, m1: auto); SGLang compares the flag"),
        (
            "d0",
            {"identity": {"kv_scales": "1.0"}},
            "kv_scales differs from `m1`'s (d0: 1.0, m1: none); 8-bit KV is wrong",
        ),
        ("d0", {"identity": {"sglang": "2.0"}}, "sglang differs from `m1`'s (d0: 2.0, m1: 1.0)"),
        ("d0", {"identity": {"tp_size": 2}}, "tp_size differs from `m1`'s (d0: 2, m1: 1); SGLang moves KV between"),
        ("m0", {"identity": {"tp_size": 2, "any_tp": True}}, "tp_size differs from `m1`'s (m0: 2, m1: 1)"),
        ("m0", {"identity": {"weights": "v"}}, "weights differs from `m1`'s (m0: v, m1: w)"),
        ("d0", {"patches": [{"name": "p", "target": "t", "state": "moved"}]}, "hook `p` on t is moved"),
    ],
)
def test_what_a_worker_is_refused_for(name: str, changed: dict[str, Any], reason: str) -> None:
    registry = Registry(FLEET)
    registry.admit("m1", card("prefill"))
    role = registry.workers[name].role
    assert reason in registry.admit(name, card(**{"role": role, **changed}))
    assert registry.state(name) is State.REFUSED
    assert registry.unproven() == ()


def test_pools_of_different_tasks_may_differ_in_weights() -> None:
    registry = Registry(FLEET)
    assert registry.admit("m0", card("prefill", "a")) == ""
    assert registry.admit("t0", card("prefill", "b")) == ""
    assert registry.admit("d0", card("decode", "c")) == ""


def test_a_decode_worker_with_more_ranks_serves_where_kv_can_be_split() -> None:
    registry = Registry(FLEET)
    assert registry.admit("m0", card("prefill", identity={"any_tp": True})) == ""
    assert registry.admit("d0", card("decode", identity={"any_tp": True, "tp_size": 2})) == ""
    assert [path.decode for path in registry.unproven()] == ["d0"]


def test_a_decoder_that_a_module_was_not_tuned_for_serves_no_task_but_those_that_take_any() -> None:
    any_decoder = FLEET.tasks["tool"].model_copy(update={"any_decoder": True})
    fleet = FLEET.model_copy(update={"tasks": FLEET.tasks | {"tool": any_decoder}})
    registry = Registry(fleet)
    for name in ("m0", "t0"):
        assert registry.admit(name, card("prefill", tuned_for="full")) == ""
    assert registry.admit("d0", card("decode", identity={"decoder": "4-bit"})) == ""
    (refused,) = registry.unusable("math")
    assert "was tuned to be decoded by weights full, and `d0` has weights 4-bit" in refused.refusal
    assert registry.unusable("tool") == ((("t0", "d0"), ""),)
    assert registry.unproven() == (WorkerPath("t0", "d0"),)
    for path in registry.unproven():
        registry.prove(path, registry.starts(path) or Starts("", ""))
    assert registry.usable("math") == ()
    assert [pair.prefill.name for pair in registry.usable("tool")] == ["t0"]


@pytest.mark.parametrize("tuned", ["m0", "d0"])
@pytest.mark.parametrize("without", ["m0", "d0"])
def test_path_whose_decode_module_makes_the_first_token_needs_the_hook_on_both_workers(
    tuned: str, without: str
) -> None:
    registry, roles = Registry(FLEET), {"m0": "prefill", "d0": "decode"}
    for name, role in roles.items():
        first = {"first_token": "decode"} if name == tuned else {}
        hooks = {"patches": [HOOK.model_dump()]} if name == without else {}
        assert registry.admit(name, card(role, **first, **hooks)) == ""
    (refused,) = registry.unusable("math")
    assert f"`{without}` has no hook `split_prompt.split`" in refused.refusal
    assert (
        registry.admit(without, card(roles[without], **({"first_token": "decode"} if without == tuned else {}))) == ""
    )
    assert registry.unproven() == (WorkerPath("m0", "d0"),)


def test_path_of_emulated_workers_whose_decode_module_makes_the_first_token_needs_no_hook() -> None:
    registry = Registry(FLEET)
    registry.admit("m0", card("prefill", patches=[]))
    registry.admit("d0", card("decode", patches=[], first_token="decode"))
    assert registry.unproven() == (WorkerPath("m0", "d0"),)


@pytest.mark.parametrize("tuned_on", ["base", "another"])
def test_decode_module_serves_with_the_prefill_weights_it_was_tuned_on_and_a_task_that_takes_any_with_others(
    tuned_on: str,
) -> None:
    any_decoder = FLEET.tasks["tool"].model_copy(update={"any_decoder": True})
    registry = Registry(FLEET.model_copy(update={"tasks": FLEET.tasks | {"tool": any_decoder}}))
    for name, weights in (("m0", "base"), ("t0", "other")):
        assert registry.admit(name, card("prefill", weights)) == ""
    assert registry.admit("d0", card("decode", "own", first_token="decode", tuned_on=tuned_on)) == ""
    refusals = [path.refusal for path in registry.unusable("math") if path.refusal]
    wrong = "`d0` was tuned on prompts that weights another prefill, and `m0` has weights base"
    assert [wrong in refusal for refusal in refusals] == ([] if tuned_on == "base" else [True])
    assert {path.path for path in registry.unusable("tool")} == {WorkerPath("t0", "d0")}
    assert not any(path.refusal for path in registry.unusable("tool"))


@pytest.mark.parametrize("field", ["first_token", "tuned_on"])
def test_workers_of_one_pool_whose_modules_were_tuned_in_other_ways_are_not_mixed(field: str) -> None:
    """Equal weights with another `sun.json`: requests of a task would be served in two ways."""
    registry = Registry(FLEET)
    tuned = {"first_token": "decode", "tuned_on": "base"}
    assert registry.admit("d0", card("decode", "own", **tuned)) == ""
    other = {"first_token": "prefill", "tuned_on": ""}[field]
    assert f"{field} differs from `d0`'s" in registry.admit("d1", card("decode", "own", **tuned | {field: other}))


@pytest.mark.parametrize("identity", [{"decoder": "full"}, {"weights": "full"}])
def test_the_decoder_that_a_module_was_tuned_for_serves_it(identity: dict[str, str]) -> None:
    registry = Registry(FLEET)
    registry.admit("m0", card("prefill", tuned_for="full"))
    registry.admit("d0", card("decode", identity=identity))
    assert registry.unproven() == (WorkerPath("m0", "d0"),)


def test_what_was_refused_because_of_another_is_taken_when_the_other_leaves() -> None:
    registry = Registry(FLEET)
    registry.admit("m0", card("prefill", "a"))
    assert registry.admit("m1", card("prefill", "b"))
    registry.eject("m0", "gone", gone=True)
    assert registry.admit("m1", card("prefill", "b")) == ""


def test_the_limit_is_the_least_of_both_pools() -> None:
    registry = Registry(FLEET)
    registry.admit("m0", card("prefill", max_input_tokens=90))
    registry.admit("d0", card("decode", kv_tokens=80, identity={"vocab_size": 50_000}))
    path = WorkerPath("m0", "d0")
    registry.prove(path, registry.starts(path) or Starts("", ""))
    assert registry.limit("math") == (80, 50_000, None)
    assert registry.limit("tool") is None
