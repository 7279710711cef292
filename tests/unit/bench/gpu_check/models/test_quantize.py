"""Quantised checkpoints, as other libraries read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sun_sglang.bench.gpu_check.models.quantize import write_four_bit, write_scaled
from sun_sglang.bench.gpu_check.models.reference import _load

PROMPT = torch.tensor([[5, 80, 200, 13, 13, 99]])


@pytest.fixture(scope="module")
def four_bit(llamas: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("four-bit")
    write_four_bit(llamas["base"], folder / "packed", folder / "rounded")
    return folder / "packed", folder / "rounded"


# torch's own code calls one of its deprecated functions while compressed-tensors unpacks
@pytest.mark.filterwarnings("ignore")
def test_packed_checkpoint_computes_the_logits_of_the_rounded_one(four_bit: tuple[Path, Path]) -> None:
    with torch.inference_mode():
        packed, rounded = (_load(path, "cpu", "bfloat16")(PROMPT).logits for path in four_bit)
    assert torch.equal(packed, rounded)


def test_rounded_checkpoint_has_sixteen_values_a_group_and_is_near_the_source(
    llamas: dict[str, Path], four_bit: tuple[Path, Path]
) -> None:
    source, rounded = (load_file(path / "model.safetensors") for path in (llamas["base"], four_bit[1]))
    name = "model.layers.1.mlp.down_proj.weight"
    groups = rounded[name].reshape(-1, 128)
    assert max(len(group.unique()) for group in groups) <= 16
    step = source[name].float().reshape(-1, 128).abs().amax(dim=1, keepdim=True) / 7
    error = (groups.float() - source[name].float().reshape(-1, 128)).abs()
    assert bool((error <= 0.52 * step).all())
    assert torch.equal(source["model.embed_tokens.weight"], rounded["model.embed_tokens.weight"])


def test_four_bit_checkpoint_is_written_again_over_an_older_one(
    llamas: dict[str, Path], four_bit: tuple[Path, Path]
) -> None:
    before = (four_bit[0] / "model.safetensors").read_bytes()
    write_four_bit(llamas["base"], *four_bit)
    assert (four_bit[0] / "model.safetensors").read_bytes() == before


def test_scaled_checkpoint_has_one_scale_a_layer_and_side_beside_the_same_weights(
    llamas: dict[str, Path], tmp_path: Path
) -> None:
    write_scaled(llamas["a"], tmp_path / "scaled", 1.5)
    source, scaled = (load_file(path / "model.safetensors") for path in (llamas["a"], tmp_path / "scaled"))
    added = {name: float(scaled[name]) for name in scaled.keys() - source.keys()}
    assert added == {f"model.layers.{i}.self_attn.{side}_scale": 1.5 for i in range(4) for side in "kv"}
    assert all(torch.equal(scaled[name], source[name]) for name in source)
    config = json.loads((tmp_path / "scaled" / "config.json").read_text())
    assert config["quantization_config"]["kv_cache_scheme"]["num_bits"] == 8
