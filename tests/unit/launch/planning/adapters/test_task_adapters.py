"""Adapters of tasks: what of them a preflight refuses, and what a plan does for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.errors import CheckpointError, IdentityError, TopologyError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.plan import LaunchPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import PreflightReport, preflight
from sun_sglang.topology import Topology
from sun_sglang.topology_file import parse_topology
from tests.support.adapters import VOCABULARY, weights, write_adapter, write_base

MACHINE = Machine(cores=2, memory=1 << 34)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SMALL = ("self_attn.q_proj", "self_attn.v_proj")


class Checked(NamedTuple):
    """A topology that a preflight took, and the preflight's report."""

    topology: Topology
    report: PreflightReport


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the checkpoints of these tests, which lack norms, for whole."""
    monkeypatch.setattr("sun_sglang.launch.planning.preflight.require_complete", lambda *_: "")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def check(base: Path, tasks: Mapping[str, str], *, prefill: str = "", backend: str = "sglang") -> Checked:
    """Run a preflight of tasks on one prefill pool and one decode pool, both of one model."""
    lines = "".join(f"  {name}: {{prefill: shared, decode: base{task}}}\n" for name, task in tasks.items())
    text = f"""
backend: {backend}
pools:
  base: {{role: decode, model: {base}}}
  shared: {{role: prefill, model: {base}, engine: {{{prefill}}}}}
tasks:
{lines}"""
    topology = parse_topology(text, base=base.parent)
    return Checked(topology, preflight(topology, MACHINE, None))


def planned(checked: Checked) -> LaunchPlan:
    return make_plan(checked.topology, MACHINE, checked.report.pools, run_dir=Path("/run"), router_port=1)


def flags(plan: LaunchPlan, pool: str) -> dict[str, list[str]]:
    (worker,) = [w for w in plan.workers if w.pool == pool]
    found: dict[str, list[str]] = {}
    for argument in worker.argv:
        if argument.startswith("--"):
            found[argument] = []
        else:
            list(found.values())[-1].append(argument)
    return found


def test_pool_has_room_for_the_adapters_of_its_tasks(tmp_path: Path, base: Path) -> None:
    write_adapter(tmp_path / "a", rank=3, modules=SMALL)
    write_adapter(tmp_path / "b", rank=5, modules=("mlp.down_proj",))
    plan = planned(check(base, {"a": ", adapter: ./a", "b": ", adapter: ./b", "plain": ""}))
    prefill, decode = flags(plan, "shared"), flags(plan, "base")
    assert prefill["--enable-lora"] == []
    assert prefill["--max-lora-rank"] == ["5"]
    assert prefill["--lora-target-modules"] == ["down_proj", "q_proj", "v_proj"]
    assert prefill["--lora-backend"] == ["torch_native"]
    assert "--max-loras-per-batch" not in prefill, "SGLang's own default"
    assert "--lora-paths" not in prefill, "the router loads them"
    assert not any("lora" in flag for flag in decode)
    tasks = plan.fleet.tasks
    assert [tasks[name].adapter and tasks[name].adapter.rank for name in ("a", "b", "plain")] == [3, 5, None]
    assert tasks["a"].adapter is not None
    assert tasks["a"].adapter.directory == str(tmp_path / "a")


def test_flags_of_the_user_win(tmp_path: Path, base: Path) -> None:
    write_adapter(tmp_path / "a", modules=SMALL)
    given = "max_lora_rank: 64, lora_target_modules: [all], max_loras_per_batch: 4"
    found = flags(planned(check(base, {"a": ", adapter: ./a"}, prefill=given)), "shared")
    assert found["--max-lora-rank"] == ["64"]
    assert found["--lora-target-modules"] == ["all"]
    assert found["--max-loras-per-batch"] == ["4"]


def test_pool_for_later_adapters_accepts_all_linear_layers(base: Path) -> None:
    found = flags(planned(check(base, {"plain": ""}, prefill="enable_lora: true")), "shared")
    assert found["--max-lora-rank"] == ["16"]
    assert found["--lora-target-modules"] == [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
    own = flags(planned(check(base, {"plain": ""}, prefill="lora_paths: [x=y]")), "shared")
    assert "--max-lora-rank" not in own, "SGLang derives it from the user's own adapters"


@pytest.mark.parametrize(("task", "flag"), [(", adapter: ./a", ""), ("", "enable_lora: true")])
def test_worker_with_adapters_survives_one_whose_logits_are_no_numbers(
    tmp_path: Path, base: Path, task: str, flag: str
) -> None:
    write_adapter(tmp_path / "a", modules=SMALL)
    workers = planned(check(base, {"x": task}, prefill=flag)).workers
    found = {worker.pool: worker.env.get("SGLANG_SANITIZE_NAN_LOGITS") for worker in workers}
    assert found == {"shared": "true", "base": None}
    plain = planned(check(base, {"plain": ""})).workers
    assert not any("SGLANG_SANITIZE_NAN_LOGITS" in worker.env for worker in plain)


@pytest.mark.invariant("I8")
@pytest.mark.parametrize(("task", "flag"), [(", adapter: ./a", ""), ("", "enable_lora: true")])
def test_decoder_behind_adapters_keeps_no_answers(tmp_path: Path, base: Path, task: str, flag: str) -> None:
    write_adapter(tmp_path / "a", modules=SMALL)
    plain = flags(planned(check(base, {"plain": ""})), "base")
    assert "--radix-cache-backend" not in plain, "one module makes all KV"
    adapted = flags(planned(check(base, {"plain": "", "x": task}, prefill=flag)), "base")
    assert adapted["--radix-cache-backend"] == ["sun_prompt_only"]


@pytest.mark.parametrize(
    ("flag", "where", "expected"),
    [
        ("max_lora_rank: 2", "max_lora_rank", "is 2, and the adapter of the task `a` has rank 3; set it to 3 or more"),
        ("lora_target_modules: [o_proj]", "lora_target_modules", "lacks `q_proj`, which the adapter of the task `a`"),
        ("enable_lora: false", "enable_lora", "is `false`, and the task `a` has an adapter"),
        ("dp_size: 2", "dp_size", "SGLang loads no adapters into a worker with several data-parallel ranks"),
        (
            "enable_dp_attention: true",
            "enable_dp_attention",
            "SGLang loads no adapters into a worker with DP attention",
        ),
        ("lora_paths: [x=y]", "max_lora_rank", "is required beside `lora_paths` where tasks have adapters"),
    ],
)
def test_flag_without_room_for_an_adapter_is_one_error(
    tmp_path: Path, base: Path, flag: str, where: str, expected: str
) -> None:
    write_adapter(tmp_path / "a", rank=3, modules=SMALL)
    with pytest.raises(TopologyError) as caught:
        check(base, {"a": ", adapter: ./a"}, prefill=flag)
    assert caught.value.where == f"pools.shared.engine.{where}"
    assert expected in str(caught.value)


def test_one_layer_of_a_group_gives_room_for_the_group(tmp_path: Path, base: Path) -> None:
    write_adapter(tmp_path / "a", modules=SMALL)
    check(base, {"a": ", adapter: ./a"}, prefill="lora_target_modules: [k_proj]")


def test_adapter_that_cannot_be_read_is_named_with_its_task(tmp_path: Path, base: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^tasks\.a\.adapter: .*absent: is not a directory"):
        check(base, {"a": ", adapter: ./absent"})


def test_fingerprint_of_another_vocabulary_is_named_before_it_ends_a_scheduler(tmp_path: Path, base: Path) -> None:
    for token in (VOCABULARY - 1, VOCABULARY):
        record = {"tokens": [1, token], "adapter": [-2.0], "base": [-1.0]}
        write_adapter(tmp_path / str(token), fingerprint=record)
    check(base, {"a": f", adapter: ./{VOCABULARY - 1}"})
    with pytest.raises(IdentityError, match=r"tasks\.a\.adapter: .*fingerprint\.json: has the token 64"):
        check(base, {"a": f", adapter: ./{VOCABULARY}"})


def test_adapter_of_another_base_is_named_with_its_task(tmp_path: Path, base: Path) -> None:
    record = {"base": "other", "decoder": "", "first_token": "prefill"}
    write_adapter(tmp_path / "a", record=record)
    with pytest.raises(IdentityError, match=r"tasks\.a\.adapter: .*base with weights other, and `shared` has weights"):
        check(base, {"a": ", adapter: ./a, any_decoder: true"})
    write_adapter(tmp_path / "a", record={**record, "base": weights_revision(base)})
    check(base, {"a": ", adapter: ./a"})
    # where no base is recorded, the layers are compared
    write_adapter(
        tmp_path / "b",
        shapes={f"base_model.model.model.layers.9.mlp.down_proj.lora_{s}.weight": (2, 2) for s in "AB"},
        modules=("mlp.down_proj",),
    )
    with pytest.raises(CheckpointError, match=r"tasks\.b\.adapter: .*it is an adapter of another model"):
        check(base, {"b": ", adapter: ./b"})


def test_adapter_that_was_tuned_for_another_decoder_needs_the_users_word(tmp_path: Path, base: Path) -> None:
    record = {"base": weights_revision(base), "decoder": "other", "first_token": "prefill"}
    write_adapter(tmp_path / "a", record=record)
    with pytest.raises(IdentityError, match=r"tasks\.a\.adapter: .*tuned to be decoded by weights other, and `base`"):
        check(base, {"a": ", adapter: ./a"})
    check(base, {"a": ", adapter: ./a, any_decoder: true"})


def test_decoder_that_was_tuned_on_prompts_without_an_adapter_needs_the_users_word(tmp_path: Path, base: Path) -> None:
    revision = weights_revision(base)
    (base / "sun.json").write_text(
        f'{{"base": "{revision}", "decoder": "{revision}", "first_token": "decode", "scheme": "full"}}'
    )
    write_adapter(tmp_path / "a")
    with pytest.raises(IdentityError, match=r"tasks\.a\.adapter: .*`base` was tuned on prompts that weights"):
        check(base, {"a": ", adapter: ./a"})
    check(base, {"a": ", adapter: ./a, any_decoder: true"})


def test_emulated_pools_read_adapters_and_compare_only_checkpoints(tmp_path: Path, base: Path) -> None:
    record = {"base": "other", "decoder": "", "first_token": "prefill"}
    write_adapter(tmp_path / "a", record=record)
    nowhere = tmp_path / "some-model"
    plan = planned(check(nowhere, {"a": ", adapter: ./a"}, backend="emulated"))
    assert plan.fleet.tasks["a"].adapter is not None
    assert "--enable-lora" in flags(plan, "shared")
    with pytest.raises(IdentityError, match="base with weights other"):
        check(base, {"a": ", adapter: ./a"}, backend="emulated")
    with pytest.raises(CheckpointError, match=r"tasks\.a\.adapter"):
        check(nowhere, {"a": ", adapter: ./absent"}, backend="emulated")


def test_base_whose_tensors_have_other_names_is_noted(tmp_path: Path, base: Path) -> None:
    (base / "model.safetensors").write_bytes(weights({"blk.0.attn_q.weight": (8, 8)}))
    write_adapter(tmp_path / "a")
    notes = check(base, {"a": ", adapter: ./a"}).report.notes
    assert "`shared`: its adapters were not compared with its layers: its tensors have other names." in notes


def test_tokenizer_and_chat_template_beside_an_adapter_are_noted_where_they_differ(tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "a")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    for name in ("chat_template.jinja", "tokenizer.json"):
        (adapter / name).write_text((base / name).read_text())
    (_flags,) = check(base, {"a": ", adapter: ./a"}).report.notes
    (adapter / "chat_template.jinja").write_text("{{ messages[0] }}")
    (adapter / "tokenizer.json").write_text('{"model": "letters"}')
    _, *notes = check(base, {"a": ", adapter: ./a"}).report.notes
    for kind, note in zip(("chat template", "tokenizer"), notes, strict=True):
        assert f"holds another {kind} than `shared` serves with" in note
    (adapter / "chat_template.jinja").write_text("{{")
    with pytest.raises(CheckpointError, match=r"tasks\.a\.adapter: .*remove it: serving uses the base's"):
        check(base, {"a": ", adapter: ./a"})
