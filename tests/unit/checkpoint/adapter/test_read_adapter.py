"""A LoRA adapter's directory is read whole, or refused with one error that names the file and the fix."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint.adapter.read import file_states, read_adapter
from sun_sglang.errors import CheckpointError
from tests.support.adapters import adapter_shapes, weights, write_adapter

Q = "base_model.model.model.layers.0.self_attn.q_proj"
FINGERPRINT = {"tokens": [1, 2, 3], "adapter": [-1.0, -2.0], "base": [-3.0, -4.0]}


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_adapter(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    return message


def test_adapter_of_another_trainer_has_its_rank_and_layers(tmp_path: Path) -> None:
    ref = read_adapter(write_adapter(tmp_path / "a", rank=3, modules=("self_attn.q_proj", "self_attn.v_proj")))
    assert (ref.directory, ref.rank, ref.target_modules) == (str(tmp_path / "a"), 3, ("q_proj", "v_proj"))
    assert (ref.base, ref.tuned_for, ref.first_token, ref.fingerprint) == ("", "", "prefill", None)
    assert ref.name == f"sun-{ref.revision}"


def test_adapter_of_sun_train_has_its_base_decoder_and_fingerprint(tmp_path: Path) -> None:
    record = {"base": "b1", "decoder": "d1", "first_token": "decode", "scheme": "prefill_only"}
    ref = read_adapter(write_adapter(tmp_path / "a", record=record, fingerprint=FINGERPRINT))
    assert (ref.base, ref.tuned_for, ref.first_token) == ("b1", "d1", "decode")
    assert ref.fingerprint is not None
    assert ref.fingerprint.tokens == (1, 2, 3)


def test_revision_changes_with_weights_and_scale_and_with_nothing_else(tmp_path: Path) -> None:
    first = read_adapter(write_adapter(tmp_path / "a")).revision
    others = {
        "weights": write_adapter(tmp_path / "b", fill=2),
        "scale": write_adapter(tmp_path / "c", config={"lora_alpha": 5}),
        "rank": write_adapter(tmp_path / "d", rank=4),
    }
    assert len({first, *(read_adapter(path).revision for path in others.values())}) == 4
    same = write_adapter(tmp_path / "e", config={"lora_dropout": 0.1, "base_model_name_or_path": "x"}, record=None)
    assert read_adapter(same).revision == first


def test_weights_that_are_replaced_in_place_have_another_revision_and_state(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    first, before = read_adapter(path).revision, file_states(path)
    (path / "adapter_model.safetensors").unlink()
    write_adapter(path, fill=7)
    assert read_adapter(path).revision != first
    assert file_states(path) != before


def test_weights_that_are_overwritten_with_their_old_size_and_time_have_another_revision(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    file = path / "adapter_model.safetensors"
    first, before, was = read_adapter(path).revision, file_states(path), file.stat()
    write_adapter(path, fill=7)
    # as `cp -p` does it with files of an image, in which all have one time
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    while file.stat().st_ctime_ns == was.st_ctime_ns:
        # the kernel's clock has not moved on yet
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    now = file.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (was.st_size, was.st_mtime_ns, was.st_ino)
    assert file_states(path) != before
    assert read_adapter(path).revision != first


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"peft_type": "IA3"}, "peft_type: is 'IA3', and SGLang serves LORA only"),
        ({"use_dora": True}, "use_dora: SGLang has no DoRA; merge"),
        ({"r": 4, "use_rslora": True}, "use_rslora: .*write `use_rslora: false` and `lora_alpha: 8`"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern: SGLang has one rank"),
        ({"alpha_pattern": {"q_proj": 9}}, "alpha_pattern: SGLang has one scale"),
        ({"bias": "lora_only"}, "bias: SGLang ignores tuned biases"),
        ({"lora_bias": True}, "lora_bias: SGLang ignores tuned biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: SGLang ignores"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices: SGLang ignores"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters: SGLang ignores"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out: SGLang does not serve"),
        ({"layer_replication": [[0, 2]]}, "layer_replication: SGLang serves the base with its own layers"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens: SGLang applies an adapter to the whole prompt"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: is 'pissa_niter_4'.*base's weights"),
        ({"new_kind_of_lora": {"x": 1}}, "new_kind_of_lora: is {'x': 1}, a setting that SGLang ignores; merge"),
        ({"target_modules": ".*q_proj"}, r"target_modules: is the pattern '\.\*q_proj'"),
        ({"target_modules": "all-linear"}, "target_modules: is the pattern 'all-linear'"),
        ({"target_modules": []}, "target_modules: names no layer"),
        ({"target_modules": [3]}, r"target_modules: must be a list of names \(got \[3\]\)"),
        ({"layers_to_transform": "all"}, "layers_to_transform: must be numbers of layers"),
        ({"r": 0}, r"r: must be a whole number from 1 to 65536 \(got 0\)"),
        ({"r": 2.5}, r"r: must be a whole number from 1 to 65536 \(got 2\.5\)"),
        ({"r": True}, r"r: must be a whole number from 1 to 65536 \(got True\)"),
        ({"r": 2.0}, r"r: must be a whole number from 1 to 65536 \(got 2\.0\)"),
        ({"r": 10**400}, "r: must be a whole number from 1 to 65536"),
        ({"lora_alpha": 10**400}, "lora_alpha: must be a number"),
        ({"lora_alpha": 1e308}, r"lora_alpha: must be a number up to 1e\+06, and not 0 \(got 1e\+308\)"),
        ({"lora_alpha": 0}, r"lora_alpha: must be a number up to 1e\+06, and not 0 \(got 0\)"),
        ({"lora_alpha": None}, r"lora_alpha: must be a number \(got None\)"),
        ({"lora_alpha": float("nan")}, r"lora_alpha: must be a number \(got nan\)"),
    ],
)
def test_setting_that_sglang_ignores_or_refuses_is_one_error(
    tmp_path: Path, config: dict[str, Any], expected: str
) -> None:
    assert re.search(r"adapter_config\.json: " + expected, refusal(write_adapter(tmp_path / "a", config=config)))


def test_settings_that_change_nothing_are_taken(tmp_path: Path) -> None:
    harmless = {
        "use_dora": False,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 4},
        "bias": "none",
        "init_lora_weights": "gaussian",
        "qalora_group_size": 16,
        "megatron_core": "megatron.core",
        "later": None,
        "peft_version": "0.99",
    }
    assert read_adapter(write_adapter(tmp_path / "a", config=harmless)).rank == 2


SHAPES = adapter_shapes()
OTHER_Q = "base_model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({}, "holds no tensor"),
        ({**SHAPES, "model.embed_tokens.weight": (4, 4)}, "`model.embed_tokens.weight` is no part of a LoRA update"),
        ({**SHAPES, f"{Q}.lora_magnitude_vector": (4,)}, "belongs to DoRA"),
        ({**SHAPES, f"{Q}.lora_B.bias": (4,)}, "is a tuned bias, which SGLang ignores"),
        ({**SHAPES, "base_model.model.model.embed_tokens.lora_embedding_A": (2, 64)}, "changes an embedding"),
        ({**SHAPES, "base_model.model.lm_head.lora_A.weight": (2, 8)}, "is outside of the blocks"),
        ({**SHAPES, "base_model.model.transformer.h.0.attn.q_proj.lora_A.weight": (2, 8)}, "is outside of the blocks"),
        (
            {**SHAPES, "base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight": (2, 8)},
            "is outside of the blocks of the language model",
        ),
        (
            {**SHAPES, "base_model.model.model.layers.0.mlp.experts.3.up_proj.lora_A.weight": (2, 8)},
            "changes an expert",
        ),
        ({**SHAPES, "base_model.model.model.layers.0.mlp.gate.lora_A.weight": (2, 8)}, "changes `gate`, and adapters"),
        ({**SHAPES, f"{Q}.lora_A.default.weight": (2, 8)}, "has another name than PEFT gives it"),
        ({k: v for k, v in SHAPES.items() if k != f"{Q}.lora_B.weight"}, "no `lora_B` of `model.layers.0.self_attn"),
        ({**SHAPES, f"{Q}.lora_A.weight": (3, 8)}, "q_proj` has rank 3, and adapter_config.json has `r: 2`"),
        ({**SHAPES, f"{Q}.lora_B.weight": (8, 3)}, "q_proj` has rank 3, and adapter_config.json has `r: 2`"),
        ({**SHAPES, f"{Q}.lora_A.weight": (2, 4, 2)}, r"has the shape \[2, 4, 2\]"),
        (
            {**SHAPES, f"{OTHER_Q}.lora_A.weight": (2, 8), f"{OTHER_Q}.lora_B.weight": (8, 2)},
            "`layers.0.self_attn.q_proj` and `model.layers.0.self_attn.q_proj` are one layer to SGLang",
        ),
    ],
)
def test_tensor_that_sglang_ignores_or_refuses_is_one_error(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], expected: str
) -> None:
    assert re.search(
        r"adapter_model\.safetensors: .*" + expected, refusal(write_adapter(tmp_path / "a", shapes=shapes))
    )


def test_layers_of_settings_and_weights_must_be_the_same(tmp_path: Path) -> None:
    more = write_adapter(tmp_path / "a", config={"target_modules": ["q_proj", "v_proj"]}, modules=("self_attn.q_proj",))
    assert "target_modules: names `v_proj`, of which adapter_model.safetensors holds no tensor" in refusal(more)
    less = write_adapter(tmp_path / "b", config={"target_modules": ["q_proj"]})
    assert "changes `down_proj`, and `target_modules` in adapter_config.json lacks it" in refusal(less)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    assert "and its header describes" in refusal(tmp_path / "a")
    path.write_bytes(path.read_bytes()[:5])
    assert "does not begin with a safetensors header" in refusal(tmp_path / "a")


def test_whole_numbers_are_refused(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    path.write_bytes(weights(adapter_shapes(), dtype="I8", width=1))
    assert "is stored as I8" in refusal(tmp_path / "a")


def test_directory_without_an_adapter_says_what_it_holds(tmp_path: Path) -> None:
    assert "is not a directory; name the directory of a LoRA adapter" in refusal(tmp_path / "absent")
    assert "holds no adapter_config.json; name a directory that `save_pretrained`" in refusal(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert f"`sun train` wrote the adapter into {tmp_path / 'adapter'}: name that" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "holds a model and no LoRA adapter; name it as the `model` of a prefill pool" in refusal(tmp_path)


def test_weights_that_are_missing_pickled_or_doubled_are_named(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    (path / "adapter_model.safetensors").rename(path / "model.safetensors")
    assert "adapter_model.safetensors: not found" in refusal(path)
    (path / "adapter_model.bin").write_bytes(b"")
    assert "adapter_model.bin holds pickled weights" in refusal(path)
    write_adapter(path)
    assert "model.safetensors: SGLang would load it as a part of the adapter; remove it" in refusal(path)


def test_broken_fingerprint_and_config_are_named(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a", fingerprint={**FINGERPRINT, "base": [-1.0]})
    assert "fingerprint.json: " in refusal(path)
    assert "remove it, or write it again with `sun fingerprint`" in refusal(path)
    write_adapter(path, fingerprint={**FINGERPRINT, "base": FINGERPRINT["adapter"]})
    assert "fingerprint.json: shows no effect of the adapter" in refusal(path)
    (path / "adapter_config.json").write_text("{")
    assert "adapter_config.json: cannot be read" in refusal(path)
    (path / "adapter_config.json").write_text(json.dumps([1]))
    assert "adapter_config.json: is not a JSON object" in refusal(path)


def test_hidden_files_are_left_out_as_sglang_leaves_them_out(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    (path / "._adapter_model.safetensors").write_bytes(b"macOS")
    assert read_adapter(path).rank == 2


def test_tensors_that_overlap_or_leave_a_gap_are_refused_as_safetensors_refuses_them(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    whole = path.read_bytes()
    # the second tensor has the 64 bytes of the first one, or those behind its own
    for offsets in (b"[0, 64]", b"[65, 129]"):
        changed = whole.replace(b"[64, 128]", offsets.ljust(len(b"[64, 128]")), 1)
        assert changed != whole
        path.write_bytes(changed)
        assert "the tensor before it ends at" in refusal(tmp_path / "a")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "fingerprint.json", "sun.json"])
def test_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    path = write_adapter(tmp_path / "a")
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    assert f"{name}: is not a regular file" in refusal(path)


def test_json_file_of_many_megabytes_is_refused_unread(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a") / "fingerprint.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "fingerprint.json: has 1,099,511,627,776 bytes, and may have 1,048,576" in refusal(tmp_path / "a")


@pytest.mark.parametrize("name", ["fingerprint.json", "sun.json"])
def test_link_to_a_file_that_is_gone_is_an_error_and_not_an_absent_file(tmp_path: Path, name: str) -> None:
    path = write_adapter(tmp_path / "a")
    (path / name).symlink_to(tmp_path / "gone")
    assert f"{name}: cannot be read" in refusal(path)


def test_record_that_no_fleet_file_can_hold_is_named(tmp_path: Path) -> None:
    record = {"base": "a" * 300, "decoder": "b", "first_token": "prefill"}
    assert "base: String should have at most 256 characters" in refusal(write_adapter(tmp_path / "a", record=record))
    (tmp_path / "a" / "sun.json").write_text("[" * 100_000)
    assert "sun.json: cannot be read" in refusal(tmp_path / "a")


def test_path_that_cannot_be_looked_up_is_an_error_of_the_adapter() -> None:
    assert "cannot be read (File name too long)" in refusal(Path("/" + "a" * 300))
