"""Packed weights that do not fit the layers that they stand for."""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.checkpoint.completeness.packed import is_packed_format, packed_problem
from sun_sglang.checkpoint.completeness.stored import StoredTensor
from sun_sglang.packed_weights.checkpoint import packed_format

_NEEDED = {"model.layers.0.up_proj.weight": (16, 64), "model.norm.weight": (16,)}
_LAYER = "model.layers.0.up_proj"
_SHAPES: dict[str, tuple[int, ...]] = {"weight_packed": (16, 8), "weight_scale": (16, 2), "weight_shape": (2,)}
_FOUR_BITS = packed_format(4, 32)


def _stored(**changed: tuple[int, ...] | None) -> dict[str, StoredTensor]:
    shapes = {**_SHAPES, **changed}
    tensors = {f"{_LAYER}.{part}": StoredTensor(s, "model.safetensors") for part, s in shapes.items() if s is not None}
    return tensors | {"model.norm.weight": StoredTensor((16,), "model.safetensors")}


def _weights(**changed: Any) -> dict[str, Any]:
    group = _FOUR_BITS["config_groups"]["group_0"]
    return {**_FOUR_BITS, "config_groups": {"group_0": {**group, "weights": {**group["weights"], **changed}}}}


def test_a_whole_layer_passes() -> None:
    assert packed_problem(_NEEDED, _stored(), _FOUR_BITS) == ""


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("weight_scale", None),
        ("weight_packed", None),
        ("weight_shape", None),
        ("weight_scale", (16, 1)),
        ("weight_scale", (16,)),
        # 64 integers of 2 bits
        ("weight_packed", (16, 4)),
        ("weight_shape", ()),
    ],
)
def test_a_missing_or_other_tensor_is_named(part: str, shape: tuple[int, ...] | None) -> None:
    assert f"`{_LAYER}.{part}`" in packed_problem(_NEEDED, _stored(**{part: shape}), _FOUR_BITS)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"symmetric": False}, "weight_zero_point"),
        ({"actorder": "group"}, "weight_g_idx"),
        ({"actorder": "dynamic"}, "weight_g_idx"),
        ({"num_bits": 8}, "weight_packed"),
        ({"group_size": 64}, "weight_scale"),
        ({"strategy": "channel", "group_size": None}, "weight_scale"),
    ],
)
def test_a_configuration_of_other_weights_is_named(changed: dict[str, Any], named: str) -> None:
    assert f"`{_LAYER}.{named}`" in packed_problem(_NEEDED, _stored(), _weights(**changed))


def test_zero_points_and_a_permutation_pass() -> None:
    stored = _stored(weight_zero_point=(2, 2), weight_g_idx=(64,))
    assert packed_problem(_NEEDED, stored, _weights(symmetric=False, actorder="group")) == ""


def test_a_layer_may_have_the_format_of_any_group() -> None:
    channel = packed_format(8, None)["config_groups"]["group_0"]
    both = {**_FOUR_BITS, "config_groups": {"a": channel, **_FOUR_BITS["config_groups"]}}
    assert packed_problem(_NEEDED, _stored(), both) == ""


def test_a_weight_in_full_and_packed_is_named() -> None:
    stored = _stored() | {f"{_LAYER}.weight": StoredTensor((16, 64), "model.safetensors")}
    assert f"`{_LAYER}.weight` twice" in packed_problem(_NEEDED, stored, _FOUR_BITS)


def test_packed_weights_need_a_configuration() -> None:
    assert "no `quantization_config`" in packed_problem(_NEEDED, _stored(), {})


@pytest.mark.parametrize("weights", [{"num_bits": []}, {"group_size": "x"}, {"strategy": 3}, {"group_size": -1}])
def test_formats_that_are_not_known_are_not_compared(weights: dict[str, Any]) -> None:
    assert packed_problem(_NEEDED, _stored(weight_scale=(1, 1)), _weights(**weights)) == ""


@pytest.mark.parametrize("groups", [None, [1], {}, {"a": "x"}, {"a": {"format": ["pack-quantized"]}}])
def test_an_odd_configuration_is_not_of_packed_weights(groups: Any) -> None:
    assert not is_packed_format({**_FOUR_BITS, "config_groups": groups})
