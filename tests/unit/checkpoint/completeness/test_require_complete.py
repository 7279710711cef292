"""The demo's own base model with one thing changed; transformers builds its tensors in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sun_sglang.train  # noqa: F401 - makes transformers importable on a machine without a GPU
from sun_sglang.checkpoint.completeness.needed import needed_tensors
from sun_sglang.checkpoint.completeness.require_complete import require_complete
from sun_sglang.checkpoint.config_overrides import overrides_of, with_overrides
from sun_sglang.errors import CheckpointError

# after sun_sglang.train
from safetensors.torch import load_file, save_file  # isort: skip

BASE = Path(__file__).parents[4] / "configs" / "demo" / "models" / "base"
UP = "model.layers.1.mlp.up_proj.weight"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base"))


def change_tensors(model: Path, change: Change) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")


def change_config(model: Path, **settings: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_whole_checkpoint_passes(model: Path) -> None:
    assert require_complete(model) == ""


def test_missing_tensor_is_named(model: Path) -> None:
    change_tensors(model, lambda tensors: tensors.pop(UP))
    with pytest.raises(CheckpointError, match=UP):
        require_complete(model)


def test_wrong_shape_is_named(model: Path) -> None:
    change_tensors(model, lambda tensors: tensors.update({UP: tensors[UP][:-1].clone()}))
    with pytest.raises(CheckpointError, match=f"{UP}` has the shape"):
        require_complete(model)


def test_layer_that_only_the_configuration_has_is_named(model: Path) -> None:
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    change_config(model, num_hidden_layers=layers + 1)
    with pytest.raises(CheckpointError, match=rf"model\.layers\.{layers}\."):
        require_complete(model)
    override = json.dumps({"num_hidden_layers": layers})
    assert require_complete(model, {"json_model_override_args": override}) == ""


def test_layer_that_only_the_weights_have_is_named(model: Path) -> None:
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    change_config(model, num_hidden_layers=layers - 1)
    message = (
        rf"model\.safetensors: holds `model\.layers\.{layers - 1}\..*` and 10 more, of layers that config.json does"
    )
    with pytest.raises(CheckpointError, match=message):
        require_complete(model)
    change_config(model, num_nextn_predict_layers=1)
    assert require_complete(model) == ""
    change_config(model, num_nextn_predict_layers=0, num_hidden_layers=layers)
    override = json.dumps({"num_hidden_layers": layers - 1})
    assert require_complete(model, {"json_model_override_args": override}) == ""


def test_weight_of_whole_numbers_is_named_unless_flags_quantize(model: Path) -> None:
    name = "model.norm.weight"
    change_tensors(model, lambda tensors: tensors.update({name: tensors[name].int()}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: `model\.norm\.weight` is stored as I32"):
        require_complete(model)
    assert require_complete(model, {"quantization": "w8a8_int8"}) == ""


def test_number_of_layers_that_no_model_has_is_refused_before_one_is_built(model: Path) -> None:
    change_config(model, num_hidden_layers=10**9)
    with pytest.raises(
        CheckpointError, match=r"config\.json: num_hidden_layers: must be at most 10000 \(got 1000000000\)"
    ):
        require_complete(model)


def test_override_of_a_part_of_a_text_configuration_keeps_the_rest() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 8, "head_dim": 4, "num_hidden_layers": 3, "vocab_size": 16}
    text |= {"intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    config["text_config"]["layer_types"] = ["full_attention"] * 3
    config["vision_config"] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    override = overrides_of({"json_model_override_args": '{"text_config": {"num_hidden_layers": 2}}'})
    found = needed_tensors(with_overrides(config, override))
    assert found.unknown == ""
    layers = {name.split(".")[3] for name in found.shapes if name.startswith("language_model.model.layers.")}
    assert layers == {"0", "1"}
    assert found.shapes["language_model.model.embed_tokens.weight"] == (16, 8)


def test_format_without_weights_is_not_checked(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")
    assert require_complete(model, {"load_format": "dummy"}) == ""


def test_unknown_architecture_is_not_refused(model: Path) -> None:
    change_config(model, architectures=["SunForCausalLM"])
    assert "does not know SunForCausalLM" in require_complete(model)


def test_adapter_is_refused_with_the_command_that_merges_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(CheckpointError, match=r"LoRA adapter of org/base.*--merge"):
        require_complete(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_output_layer_is_needed_only_where_it_is_not_tied(tied: bool) -> None:
    config = json.loads((BASE / "config.json").read_text()) | {"tie_word_embeddings": tied}
    assert ("lm_head.weight" in needed_tensors(config).shapes) == (not tied)


EXPERTS = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "num_local_experts": 2,
    "vocab_size": 16,
}


def test_fused_experts_have_the_names_of_a_checkpoint() -> None:
    shapes = needed_tensors(EXPERTS).shapes
    assert shapes["model.layers.0.block_sparse_moe.experts.1.w1.weight"] == (16, 8)
