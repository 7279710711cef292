from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.checkpoint.completeness.stored import StoredTensor, read_stored
from sun_sglang.errors import QuantizeError
from sun_sglang.quantize.grid import plan


def stored(**inputs: int) -> dict[str, StoredTensor]:
    shapes = {f"model.layers.0.{name}.weight": (64, count) for name, count in inputs.items()}
    shapes |= {"model.embed_tokens.weight": (10, 64), "lm_head.weight": (10, 64), "model.layers.0.norm.weight": (64,)}
    return {name: StoredTensor(shape, "model.safetensors", "BF16") for name, shape in shapes.items()}


def test_plan_quantizes_linear_layers_of_decoder_layers_alone(source: Path) -> None:
    found = plan(read_stored(source), 32)
    parts = ("mlp.down", "mlp.gate", "mlp.up", "self_attn.k", "self_attn.o", "self_attn.q", "self_attn.v")
    assert sorted(m.name for m in found.matrices) == [f"model.layers.{i}.{part}_proj" for i in (0, 1) for part in parts]
    weights = 14 * 128 * 128
    assert found.size_before - found.size_after == 2 * weights - weights // 2 - 2 * weights // 32 - 14 * 16


def test_plan_group_that_does_not_divide_names_layer_and_group_that_fits() -> None:
    with pytest.raises(
        QuantizeError, match=r"--group-size 128 .* 576 inputs of `model\.layers\.0\.up`.*--group-size 64"
    ):
        plan(stored(down=1536, up=576), 128)
    with pytest.raises(QuantizeError, match="no group size that SGLang serves divides every layer"):
        plan(stored(up=48), 32)


def test_plan_width_that_marlin_refuses_is_noted() -> None:
    assert plan(stored(up=128), 64).notes == ()
    (note,) = plan(stored(up=576), 64).notes
    assert "`model.layers.0.up` has 576 and 64" in note


def test_plan_weights_of_eight_bits_are_refused() -> None:
    tensors = {"model.layers.0.up.weight": StoredTensor((64, 128), "a.safetensors", "F8_E4M3")}
    with pytest.raises(QuantizeError, match=r"a\.safetensors: `model\.layers\.0\.up\.weight` is stored as F8_E4M3"):
        plan(tensors, 64)
