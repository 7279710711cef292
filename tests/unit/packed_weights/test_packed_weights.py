"""The file format of packed weights, against compressed-tensors itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

from sun_sglang.errors import CheckpointError
from sun_sglang.packed_weights.checkpoint import dense_config, dense_tensors, is_packed, packed_layers, write_rounded
from sun_sglang.packed_weights.layer import PackedLayer, pack_rounded, packed_layer
from sun_sglang.packed_weights.rounding import round_to_nearest
from sun_sglang.packed_weights.words import pack, unpack

_NAME = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize("num_bits", range(1, 9))
@pytest.mark.parametrize("columns", [1, 31, 32, 96, 100])
def test_words_of_any_width_equal_those_of_compressed_tensors(num_bits: int, columns: int) -> None:
    half = 1 << num_bits - 1
    values = torch.randint(-half, half, (5, columns), dtype=torch.int8)
    words = pack(values, num_bits)
    assert torch.equal(words, pack_to_int32(values, num_bits))
    assert torch.equal(unpack(words, num_bits, columns), values)


@pytest.mark.parametrize("group_size", [32, 64, None])
@pytest.mark.parametrize("num_bits", [3, 4, 8])
def test_a_rounded_layer_is_what_compressed_tensors_reads(num_bits: int, group_size: int | None) -> None:
    weight = torch.randn(48, 128)
    layer = pack_rounded(round_to_nearest(weight, num_bits, group_size))
    assert layer.group_size == (group_size or 128)
    read = _decompress(
        layer, QuantizationArgs(num_bits=num_bits, strategy=_strategy(group_size), group_size=group_size)
    )
    assert torch.equal(layer.dense(), read)
    # no value is farther from its grid point than half a step, except the largest, which may be clamped by another half
    steps = layer.scales.repeat_interleave(layer.group_size, dim=1)
    assert ((layer.dense() - weight).abs() / steps).max() <= 0.501


def test_a_group_of_zeros_stays_zero() -> None:
    assert not pack_rounded(round_to_nearest(torch.zeros(2, 64), 4, 32)).dense().any()


@pytest.mark.parametrize("grouped", [True, False])
def test_zero_points_and_permuted_groups_are_what_compressed_tensors_reads(grouped: bool) -> None:
    columns, groups = 128, 4 if grouped else 1
    integers = torch.randint(-8, 8, (16, columns), dtype=torch.int8)
    zeros = torch.randint(-8, 8, (16, groups), dtype=torch.int8)
    layer = PackedLayer(
        pack(integers, 4),
        torch.rand(16, groups) + 0.1,
        4,
        columns,
        pack(zeros.T.contiguous(), 4).T.contiguous(),
        (torch.randperm(columns) % groups).int() if grouped else None,
    )
    size = 32 if grouped else None
    order = "group" if grouped else None
    args = QuantizationArgs(num_bits=4, strategy=_strategy(size), group_size=size, symmetric=False, actorder=order)
    assert torch.equal(layer.dense(), _decompress(layer, args))


def test_a_rounded_checkpoint_reads_back_as_its_dense_weights(tmp_path: Path) -> None:
    model, out = _dense_checkpoint(tmp_path), tmp_path / "packed"
    assert not is_packed(model)
    write_rounded(model, out, 4, 32)
    assert is_packed(out)
    assert dense_config(out) == {"model_type": "x"}
    [(name, layer)] = packed_layers(out)
    assert name == _NAME
    read, before = dict(dense_tensors(out, torch.float32)), load_file(model / "model.safetensors")
    assert read.keys() == before.keys()
    assert torch.equal(read["lm_head.weight"], before["lm_head.weight"].float())
    assert torch.equal(read[f"{_NAME}.weight"], layer.dense())
    assert (out / "tokenizer.json").read_text() == "{}"
    with pytest.raises(CheckpointError, match="is quantised already"):
        write_rounded(out, tmp_path / "again", 4, 32)
    with pytest.raises(CheckpointError, match="exists already"):
        write_rounded(model, out, 4, 32)


def test_a_group_that_does_not_divide_a_layer_names_it_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{_NAME}\.weight: 64 inputs are no multiple of the group size 48"):
        write_rounded(_dense_checkpoint(tmp_path), tmp_path / "packed", 4, 48)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_scale": None}, "without `weight_scale`"),
        ({"weight_packed": torch.zeros(8, 7, dtype=torch.int32)}, "does not hold 8 x 64 integers"),
        ({"weight_scale": torch.ones(8, 3)}, "does not fit a weight of 8 x 64"),
        ({"weight_zero_point": torch.zeros(8, 2, dtype=torch.int32)}, "does not fit 8 rows"),
    ],
)
def test_a_layer_whose_tensors_do_not_fit_names_the_tensor(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = pack_rounded(round_to_nearest(torch.randn(8, 64), 4, 32)).tensors(_NAME)
    for part, value in change.items():
        if value is None:
            del tensors[f"{_NAME}.{part}"]
        else:
            tensors[f"{_NAME}.{part}"] = value
    with pytest.raises(CheckpointError, match=message):
        packed_layer(_NAME, tensors)


def _strategy(group_size: int | None) -> str:
    return "group" if group_size else "channel"


def _decompress(layer: PackedLayer, args: QuantizationArgs) -> torch.Tensor:
    """Return the dense weight as compressed-tensors computes it."""
    state = {
        "weight_packed": layer.words,
        "weight_scale": layer.scales,
        "weight_shape": torch.tensor([layer.rows, layer.columns]),
        "weight_zero_point": layer.zero_words,
        "weight_g_idx": layer.group_of,
    }
    given = {name: value for name, value in state.items() if value is not None}
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    read: torch.Tensor = PackedQuantizationCompressor.decompress(given, scheme)["weight"]
    return read


def _dense_checkpoint(folder: Path) -> Path:
    model = folder / "dense"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "x"}))
    (model / "tokenizer.json").write_text("{}")
    tensors = {
        f"{_NAME}.weight": torch.randn(8, 64).half(),
        "model.layers.0.input_layernorm.weight": torch.randn(64).half(),
        "lm_head.weight": torch.randn(8, 64).half(),
    }
    save_file(tensors, model / "model.safetensors")
    return model


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("weight_shape", torch.tensor([8, 64, 1])),
        ("weight_shape", torch.tensor(8)),
        ("weight_shape", torch.tensor([8.0, float("nan")])),
        ("weight_packed", torch.tensor(1, dtype=torch.int32)),
        ("weight_scale", torch.ones(8, 2, dtype=torch.int32)),
        ("weight_zero_point", torch.zeros(1, 2)),
        ("weight_g_idx", torch.zeros(3, dtype=torch.int32)),
        ("weight_g_idx", torch.full((64,), 2, dtype=torch.int32)),
        ("weight_g_idx", torch.zeros(64)),
    ],
)
def test_an_odd_tensor_of_a_layer_is_named(part: str, value: torch.Tensor) -> None:
    tensors = pack_rounded(round_to_nearest(torch.randn(8, 64), 4, 32)).tensors(_NAME) | {f"{_NAME}.{part}": value}
    with pytest.raises(CheckpointError, match=f"{_NAME}.{part}"):
        packed_layer(_NAME, tensors)


def test_groups_marked_as_in_order_are_in_order() -> None:
    layer = pack_rounded(round_to_nearest(torch.randn(8, 64), 4, 32))
    unset = torch.full((64,), -1, dtype=torch.int32)
    read = packed_layer(_NAME, layer.tensors(_NAME) | {f"{_NAME}.weight_g_idx": unset})
    assert torch.equal(read.dense(), layer.dense())


@pytest.mark.parametrize(
    "quantization",
    [{"format": ["pack-quantized"], "config_groups": {}}, {"config_groups": {"a": None, "b": {"format": [1]}}}],
)
def test_an_odd_configuration_is_not_packed(tmp_path: Path, quantization: dict[str, Any]) -> None:
    content = {"quantization_config": {"quant_method": "compressed-tensors"} | quantization}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert not is_packed(tmp_path)
