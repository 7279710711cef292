"""Modules of tasks: what of them a preflight refuses, and what a plan does for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module import MODULES_VARIABLE, ModuleLimits
from sun_sglang.emulator.identity import emulated_revision
from sun_sglang.errors import CheckpointError, IdentityError, TopologyError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.plan import LaunchPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.topology_file import parse_topology

MACHINE = Machine(cores=2, memory=1 << 34)
Write = Callable[..., Path]
Plan = Callable[..., LaunchPlan]


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the checkpoints of these tests, which hold one tensor, for whole."""
    monkeypatch.setattr("sun_sglang.launch.planning.preflight.require_complete", lambda *_: "")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Return a function that checks and plans tasks on the pools `turns` and `base`."""

    def make(tasks: str, *, pool: str = "", decode: str = "", backend: str = "sglang") -> LaunchPlan:
        text = f"""
backend: {backend}
pools:
  base: {{role: decode, model: ./base{decode}}}
  turns: {{role: prefill, model: ./own{pool}}}
tasks: {{own: {{prefill: turns, decode: base}}{tasks}}}
"""
        topology = parse_topology(text, base=tmp_path)
        return make_plan(topology, MACHINE, preflight(topology, MACHINE, None).pools, run_dir=tmp_path, router_port=1)

    return make


@pytest.fixture
def models(write_checkpoint: Write) -> dict[str, Path]:
    return {name: write_checkpoint(name, weights=name.encode().ljust(7)) for name in ("base", "own", "other")}


def limits(plan: LaunchPlan, pool: str) -> ModuleLimits | None:
    (worker,) = [worker for worker in plan.workers if worker.pool == pool]
    content = worker.env.get(MODULES_VARIABLE)
    return None if content is None else ModuleLimits.model_validate_json(content)


def test_module_of_a_task_is_in_the_fleet_and_its_pool_keeps_modules(plan: Plan, models: dict[str, Path]) -> None:
    found = plan(", code: {prefill: turns, decode: base, model: ./other}")
    module = found.fleet.tasks["code"].module
    assert module is not None
    assert module.directory == str(models["other"])
    assert module.revision == weights_revision(models["other"])
    assert module.size > 0
    assert found.fleet.tasks["own"].module is None
    assert limits(found, "turns") == ModuleLimits(host_bytes=MACHINE.memory // 2, ttft_slo=1.0)
    assert limits(found, "base") is None


def test_settings_of_the_pool_reach_its_workers(plan: Plan, models: dict[str, Path]) -> None:
    found = plan("", pool=", modules: {host_memory_gb: 2.5, ttft_slo: 0.25}")
    assert limits(found, "turns") == ModuleLimits(host_bytes=2_500_000_000, ttft_slo=0.25)


def test_pool_without_modules_keeps_none(plan: Plan, models: dict[str, Path]) -> None:
    assert limits(plan(""), "turns") is None


def test_module_that_is_the_pools_model_is_none(plan: Plan, models: dict[str, Path]) -> None:
    found = plan(", same: {prefill: turns, decode: base, model: ./own}")
    assert found.fleet.tasks["same"].module is None
    assert limits(found, "turns") is None


def test_module_with_the_weights_of_the_pools_model_is_none(
    plan: Plan, models: dict[str, Path], write_checkpoint: Write
) -> None:
    copy = write_checkpoint("copy", weights=b"own".ljust(7))
    found = plan(", same: {prefill: turns, decode: base, model: ./copy}")
    assert found.fleet.tasks["same"].module is None
    assert limits(found, "turns") is None
    file = copy / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_theta": 5.0}))
    with pytest.raises(CheckpointError, match=r"tasks\.same\.model: .*`rope_theta` is 5\.0"):
        plan(", same: {prefill: turns, decode: base, model: ./copy}")


@pytest.mark.parametrize("accepts", [", modules: {}", ""])
def test_decoder_behind_modules_keeps_no_answers(plan: Plan, write_checkpoint: Write, accepts: str) -> None:
    """A module makes other KV of an answer than the decoder, even if the pool's own model is the decoder's."""
    for name in ("base", "own"):
        write_checkpoint(name, weights=b"equal..")
    (worker,) = [worker for worker in plan("", pool=accepts).workers if worker.pool == "base"]
    assert ("sun_prompt_only" in worker.argv) == bool(accepts)


def test_module_with_another_configuration_names_the_task(plan: Plan, models: dict[str, Path]) -> None:
    file = models["other"] / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 0.5}))
    with pytest.raises(CheckpointError, match=r"tasks\.code\.model: .*`rms_norm_eps` is 0\.5"):
        plan(", code: {prefill: turns, decode: base, model: ./other}")


def test_module_with_another_tokenizer_names_the_task(plan: Plan, models: dict[str, Path]) -> None:
    (models["other"] / "tokenizer.json").write_text(json.dumps({"model": "others"}))
    with pytest.raises(CheckpointError, match=r"tasks\.code\.model: .*holds another tokenizer"):
        plan(", code: {prefill: turns, decode: base, model: ./other}")


def test_module_for_another_decoder_is_refused_unless_the_task_takes_any(
    plan: Plan, write_checkpoint: Write, models: dict[str, Path]
) -> None:
    record = {"scheme": "prefill_only", "base": "0" * 16, "decoder": "1" * 16, "first_token": "prefill"}
    write_checkpoint("tuned", weights=b"tuned..", record=record)
    with pytest.raises(IdentityError, match=r"tasks\.code\.model: .*was tuned to be decoded by weights 1{16}"):
        plan(", code: {prefill: turns, decode: base, model: ./tuned}")
    found = plan(", code: {prefill: turns, decode: base, model: ./tuned, any_decoder: true}")
    module = found.fleet.tasks["code"].module
    assert module is not None
    assert module.tuned_for == "1" * 16


@pytest.mark.parametrize("model", ["your-org/not-here", "./missing"])
def test_module_that_is_not_on_this_machine_names_the_task(plan: Plan, models: dict[str, Path], model: str) -> None:
    with pytest.raises((TopologyError, CheckpointError), match=r"tasks\.code\.model: "):
        plan(f", code: {{prefill: turns, decode: base, model: {model}}}")


def test_task_with_an_adapter_and_a_module_is_refused(plan: Plan, models: dict[str, Path]) -> None:
    with pytest.raises(TopologyError, match=r"tasks\.code\.model: is given beside `adapter`"):
        plan(", code: {prefill: turns, decode: base, model: ./other, adapter: ./a}")


def test_decode_pool_with_modules_is_refused(plan: Plan, models: dict[str, Path]) -> None:
    with pytest.raises(TopologyError, match=r"pools\.base\.modules: is for prefill pools"):
        plan("", decode=", modules: {}")


@pytest.mark.parametrize(
    ("pool", "reason"),
    [(", engine: {dp_size: 2}", "the task `code` has"), (", modules: {}, engine: {pp_size: 2}", "the task `code` has")],
)
def test_flag_with_which_modules_cannot_take_turns_is_refused(
    plan: Plan, models: dict[str, Path], pool: str, reason: str
) -> None:
    with pytest.raises(TopologyError, match=rf"pools\.turns\.engine\.[dp]p_size: is set, and {reason}"):
        plan(", code: {prefill: turns, decode: base, model: ./other}", pool=pool)


def test_emulated_pool_takes_any_name_as_a_module(plan: Plan) -> None:
    found = plan(", code: {prefill: turns, decode: base, model: any/name}", backend="emulated")
    module = found.fleet.tasks["code"].module
    assert module is not None
    assert (module.directory, module.revision) == ("any/name", emulated_revision("any/name"))
