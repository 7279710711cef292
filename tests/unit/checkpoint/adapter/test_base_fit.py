"""An adapter fits a base if SGLang computes with the two what PEFT computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint.adapter.base_fit import read_base_layers, require_fits
from sun_sglang.errors import CheckpointError
from tests.support.adapters import BLOCKS, SIZES, adapter_shapes, weights, write_adapter, write_base

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def refusal(adapter: Path, base: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        require_fits(adapter, read_base_layers(base))
    assert str(adapter) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "modules",
    [
        tuple(SIZES),
        ("self_attn.q_proj", "self_attn.v_proj"),
        ("mlp.gate_proj",),
        ("mlp.down_proj", "self_attn.o_proj"),
        ATTENTION,
    ],
)
def test_adapter_of_layers_that_sglang_can_stack_fits(tmp_path: Path, modules: tuple[str, ...]) -> None:
    adapter = write_adapter(tmp_path / "a", modules=modules)
    require_fits(adapter, read_base_layers(write_base(tmp_path / "b")))


@pytest.mark.parametrize(
    ("modules", "lacks"),
    [
        (("self_attn.q_proj",), "v_proj"),
        (("self_attn.v_proj",), "q_proj"),
        (("self_attn.k_proj", "self_attn.v_proj"), "q_proj"),
        (("self_attn.q_proj", "self_attn.k_proj"), "v_proj"),
        (("mlp.up_proj",), "gate_proj"),
    ],
)
def test_part_of_layers_that_sglang_computes_as_one_is_refused(
    tmp_path: Path, modules: tuple[str, ...], lacks: str
) -> None:
    message = refusal(write_adapter(tmp_path / "a", modules=modules), write_base(tmp_path / "b"))
    assert f"and not `{lacks}` beside it, which SGLang computes together; train it with both" in message


def test_base_with_other_sizes_or_fewer_blocks_is_named(tmp_path: Path) -> None:
    adapter, base = write_adapter(tmp_path / "a"), write_base(tmp_path / "b", config={"num_hidden_layers": 1})
    assert "changes `model.layers.1." in refusal(adapter, base)
    assert f"{base} has no such layer: it is an adapter of another model" in refusal(adapter, base)
    shapes = adapter_shapes() | {"base_model.model.model.layers.0.mlp.down_proj.lora_B.weight": (9, 2)}
    wider = write_adapter(tmp_path / "c", shapes=shapes)
    assert "has 9 x 12 values, and that layer of" in refusal(wider, write_base(tmp_path / "d"))


def test_adapter_that_lacks_a_layer_in_one_block_is_refused_unless_its_settings_exclude_it(tmp_path: Path) -> None:
    base = write_base(tmp_path / "b")
    first = adapter_shapes(blocks=[0])
    lacking = write_adapter(tmp_path / "a", shapes=first)
    assert "holds no update of `layers.1." in refusal(lacking, base)
    only: dict[str, Any]
    for i, only in enumerate(
        (
            {"layers_to_transform": [0]},
            {"layers_to_transform": 0},
            {"exclude_modules": [f"layers.1.{module}" for module in SIZES]},
            {"target_modules": [f"model.layers.0.{module}" for module in SIZES]},
        )
    ):
        require_fits(write_adapter(tmp_path / f"part-{i}", shapes=first, config=only), read_base_layers(base))


def test_tokens_beyond_the_vocabulary_are_refused_and_known_ones_are_taken(tmp_path: Path) -> None:
    adapter, base = write_adapter(tmp_path / "a"), write_base(tmp_path / "b")
    (adapter / "added_tokens.json").write_text(json.dumps({"<known>": 63}))
    require_fits(adapter, read_base_layers(base))
    (adapter / "added_tokens.json").write_text(json.dumps({"<new>": 64}))
    assert "added_tokens.json: adds the token '<new>' to the vocabulary of" in refusal(adapter, base)


def test_only_layers_of_the_text_are_compared(tmp_path: Path) -> None:
    base = write_base(tmp_path / "b")
    text = {f"language_model.model.layers.{i}.{m}.weight": size for i in range(BLOCKS) for m, size in SIZES.items()}
    tower = {"vision_tower.layers.0.self_attn.q_proj.weight": (99, 99)}
    (base / "model.safetensors").write_bytes(weights({**text, **tower, "model.layers.0.other.weight": (9, 9)}))
    found = read_base_layers(base)
    assert set(found.sizes) == {f"layers.{i}.{module}" for i in range(BLOCKS) for module in SIZES}
    require_fits(write_adapter(tmp_path / "a"), found)


def test_packed_layers_of_a_base_are_compared_by_name(tmp_path: Path) -> None:
    base = write_base(tmp_path / "b")
    packed = {f"model.layers.{i}.{m}.weight_packed": (1, 1) for i in range(BLOCKS) for m in SIZES}
    (base / "model.safetensors").write_bytes(weights(packed))
    require_fits(write_adapter(tmp_path / "a"), read_base_layers(base))
    (base / "model.safetensors").write_bytes(weights({k: v for k, v in packed.items() if "down_proj" not in k}))
    assert "has no such layer" in refusal(tmp_path / "a", base)
