"""A quantised checkpoint loads with packed weights, and computes what its dense twin computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sun_sglang.errors import CheckpointError
from sun_sglang.packed_weights.checkpoint import dense_tensors, write_rounded
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.quantized.packed_linear import PackedLinear
from tests.support.training import SIZES
from tests.unit.train.quantized.conftest import Twins

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM  # isort: skip

IDS = torch.arange(20)[None] * 7 % 320
Tensors = dict[str, torch.Tensor]
DOWN = "model.layers.1.mlp.down_proj"


def test_logits_of_a_packed_model_are_those_of_its_dense_twin(twins: Twins) -> None:
    packed = load_model(twins.packed)
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 2 * 7
    assert torch.equal(packed(IDS).logits, load_model(twins.dense)(IDS).logits)
    assert not any(p.requires_grad for p in packed.parameters())


@pytest.mark.parametrize(
    ("model", "config"),
    [(LlamaForCausalLM, LlamaConfig), (Qwen2ForCausalLM, Qwen2Config)],
    ids=["an lm_head of its own", "biases"],
)
def test_logits_of_other_architectures_are_those_of_their_dense_twins(tmp_path: Path, model: Any, config: Any) -> None:
    torch.manual_seed(0)
    built = model(config(**{**SIZES, "tie_word_embeddings": False}))
    for name, p in built.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p)
    built.save_pretrained(tmp_path / "base")
    write_rounded(tmp_path / "base", tmp_path / "packed", 4, 16)
    shutil.copytree(tmp_path / "base", tmp_path / "dense")
    save_file(dict(dense_tensors(tmp_path / "packed")), tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    expected = load_model(tmp_path / "dense")(IDS).logits
    assert torch.equal(load_model(tmp_path / "packed")(IDS).logits, expected)


def test_packed_model_in_bfloat16_keeps_its_scales(twins: Twins) -> None:
    packed = load_model(twins.packed, torch.bfloat16)
    assert {p.dtype for p in packed.parameters()} == {torch.bfloat16}
    assert packed.get_submodule(DOWN).scales.dtype == torch.float16
    assert packed.model.rotary_emb.inv_freq.dtype == torch.float32
    torch.testing.assert_close(packed(IDS).logits, load_model(twins.dense, torch.bfloat16)(IDS).logits)


def lose(tensors: Tensors) -> None:
    del tensors["model.norm.weight"]


def add(tensors: Tensors) -> None:
    tensors["model.layers.0.mlp.gate.weight"] = torch.ones(2, 2)


def name_no_layer(tensors: Tensors) -> None:
    for part in ("weight_packed", "weight_scale", "weight_shape"):
        tensors[f"model.layers.1.mlp.experts.{part}"] = tensors[f"{DOWN}.{part}"].clone()


def cut(tensors: Tensors) -> None:
    tensors[f"{DOWN}.weight_packed"] = tensors[f"{DOWN}.weight_packed"][:16].clone()
    tensors[f"{DOWN}.weight_scale"] = tensors[f"{DOWN}.weight_scale"][:16].clone()
    tensors[f"{DOWN}.weight_shape"] = torch.tensor([16, 48])


def break_scale(tensors: Tensors) -> None:
    tensors[f"{DOWN}.weight_scale"][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose, "no file holds `model.norm.weight` with the shape"),
        (add, "holds `model.layers.0.mlp.gate.weight`, which Qwen3ForCausalLM does not have"),
        (name_no_layer, "`model.layers.1.mlp.experts` is quantised, and is no linear layer of Qwen3ForCausalLM"),
        (cut, f"`{DOWN}` holds 16 x 48 weights, and config.json requires 32 x 48"),
        (break_scale, f"a scale of `{DOWN}` is NaN or infinite"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_packed_model_that_is_not_whole_is_one_error(
    twins: Twins, tmp_path: Path, change: Callable[[Tensors], None], message: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(twins.packed, broken)
    tensors = load_file(broken / "model.safetensors")
    change(tensors)
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        load_model(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "awq"}, "is quantised by `awq`; training takes compressed-tensors"),
        ({"config_groups": None}, "has no `config_groups`"),
        ({"format": "float-quantized"}, r"config_groups\.group_0\.format is 'float-quantized'"),
        ({"input_activations": {"num_bits": 8}}, r"group_0\.input_activations is \{'num_bits': 8\}"),
        ({"weights": {"type": "float", "num_bits": 4}}, r"group_0\.weights\.type is 'float'"),
    ],
)
def test_other_quantizations_are_refused_by_name(
    twins: Twins, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(twins.packed, other)
    config = json.loads((other / "config.json").read_text())
    quantization = config["quantization_config"]
    group = quantization["config_groups"]["group_0"]
    (group if change.keys() & {"format", *group} else quantization).update(change)
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_model(other)
