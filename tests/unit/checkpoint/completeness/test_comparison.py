from __future__ import annotations

import pytest

from sun_sglang.checkpoint.completeness.comparison import (
    is_other_layout,
    language_part,
    layers_beyond,
    missing_tensors,
    whole_number_weights,
    wrong_shapes,
)
from sun_sglang.checkpoint.completeness.stored import StoredTensor

NEEDED = {
    "model.embed_tokens.weight": (16, 4),
    **{
        f"model.layers.{i}.{name}.weight": (4, 4)
        for i in range(2)
        for name in ("self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj")
    },
    "lm_head.weight": (16, 4),
}
UP = "model.layers.1.mlp.up_proj.weight"
STORED = {name: StoredTensor(shape, "model.safetensors") for name, shape in NEEDED.items()}
ANY = StoredTensor((1,), "model.safetensors")


def without(*names: str) -> dict[str, StoredTensor]:
    return {name: tensor for name, tensor in STORED.items() if name not in names}


def test_whole_checkpoint_lacks_nothing() -> None:
    assert (missing_tensors(NEEDED, STORED), wrong_shapes(NEEDED, STORED)) == ([], [])


@pytest.mark.parametrize("name", NEEDED)
def test_each_absent_tensor_is_missing(name: str) -> None:
    assert missing_tensors(NEEDED, without(name)) == [name]


@pytest.mark.parametrize(
    "beside",
    [
        "model.layers.1.self_attn.rotary_emb.inv_freq",
        "model.layers.1.self_attn.q_proj.k_scale",
        "model.layers.1.self_attn.k_scale",
        "model.layers.0.mlp.gate_up_proj.weight",
        "model.layers.61.mlp.up_proj.weight",
    ],
)
def test_tensor_is_missing_in_spite_of_buffers_scales_and_other_layers(beside: str) -> None:
    assert missing_tensors(NEEDED, {**without(UP), beside: ANY}) == [UP]


@pytest.mark.parametrize(
    "stored",
    ["model.layers.1.mlp.up_proj.qweight", "model.layers.1.mlp.gate_up_proj.weight", "model.layers.1.ffn.w3.weight"],
)
def test_quantized_and_fused_weights_replace_a_tensor(stored: str) -> None:
    assert missing_tensors(NEEDED, {**without(UP), stored: ANY}) == []


def test_names_of_another_layout_are_recognized() -> None:
    assert is_other_layout(NEEDED, {f"transformer.h.{i}.w": ANY for i in range(2)})
    assert not is_other_layout(NEEDED, without(UP))
    assert not is_other_layout(NEEDED, {"lm_head.qweight": ANY})


def test_shape_that_the_configuration_does_not_have_is_wrong() -> None:
    wrong = StoredTensor((5, 4), "model.safetensors")
    assert wrong_shapes(NEEDED, {**STORED, UP: wrong}) == [(UP, (4, 4), wrong)]


@pytest.mark.parametrize(
    ("name", "is_beyond"),
    [
        ("model.layers.2.mlp.up_proj.weight", True),
        ("model.layers.61.embed_tokens.weight", True),
        ("model.layers.1.mlp.experts.9.weight", False),
        ("model.mtp_layers.5.weight", False),
        ("visual.blocks.7.weight", False),
    ],
)
def test_layer_beyond_the_last_one_of_its_list_is_found(name: str, is_beyond: bool) -> None:
    assert layers_beyond(NEEDED, {**STORED, name: ANY}) == ([name] if is_beyond else [])


@pytest.mark.parametrize(("dtype", "is_found"), [("I32", True), ("BOOL", True), ("BF16", False), ("F8_E4M3", False)])
def test_weight_of_whole_numbers_is_found(dtype: str, is_found: bool) -> None:
    stored = {**STORED, UP: StoredTensor((4, 4), "model.safetensors", dtype)}
    assert whole_number_weights(NEEDED, stored) == ([UP] if is_found else [])


def test_vision_tower_is_not_needed() -> None:
    names = ("model.language_model.norm.weight", "model.visual.norm.weight", "lm_head.weight")
    assert list(language_part(dict.fromkeys(names, (4,)))) == [names[0], names[2]]
