"""4-bit weights on a CPU: every way to multiply agrees with the dense weights, and every format gets one of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sun_sglang.packed_weights.layer import PackedLayer, pack_rounded
from sun_sglang.packed_weights.rounding import round_to_nearest
from sun_sglang.packed_weights.words import pack
from sun_sglang.patches.weights import apply, dtypes, load, schemes
from sun_sglang.patches.weights.apply import multiply
from sun_sglang.patches.weights.int4_layer import Int4Layer, first_rows, measured_rows, prepare
from sun_sglang.patches.weights.load import PREPARED, prepare_weights

# bfloat16 rounds activations, scales and products to 9 bits each
BFLOAT16 = 2.0**-7
EXACT = 1e-5


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take a number of rows instead of the measured one, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("sun_sglang.patches.weights.int4_layer.measured_rows", lambda *_: 8)
    yield
    torch.set_num_threads(threads)


def require_close(product: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, tolerance: float) -> None:
    """Assert that no output differs by more than a share of the sum of its terms' magnitudes."""
    expected, magnitude = x.float() @ weight.T, x.float().abs() @ weight.abs().T
    assert product.dtype == x.dtype
    assert product.shape == expected.shape
    assert bool(((product.float() - expected).abs() <= tolerance * magnitude + 1e-6).all())


def layer_of(group_size: int | None, dtype: torch.dtype, *, num_bits: int = 4, rows: int = 80) -> PackedLayer:
    weight = torch.randn(rows, 512, generator=torch.Generator().manual_seed(1)).to(dtype)
    return pack_rounded(round_to_nearest(weight, num_bits, group_size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_both_ways_of_a_layer_agree_with_its_dense_weights(
    group_size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several pieces, the last one smaller
    monkeypatch.setattr("sun_sglang.patches.weights.int4_layer._PIECE", 32 * 512 * 2)
    packed = layer_of(group_size, dtype)
    layer = prepare(packed, 3, dense_copy=False)
    unpacked_tolerance = EXACT if dtype == torch.float32 else BFLOAT16
    for rows in (0, 1, 2, 3, 17):
        x = torch.randn(rows, 512).to(dtype)
        require_close(layer.multiply_by_kernel(x), x, packed.dense(), BFLOAT16)
        require_close(layer.multiply_unpacked(x), x, packed.dense(), unpacked_tolerance)
        # the measured number of rows decides
        chosen = layer.multiply_by_kernel(x) if rows < 3 else layer.multiply_unpacked(x)
        assert torch.equal(layer.multiply(x), chosen)


def test_dense_copy_multiplies_many_rows_where_the_environment_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = layer_of(64, torch.bfloat16)
    scheme, layer = loaded(packed)
    prepare_weights(scheme, layer)
    assert getattr(layer, PREPARED).dense is None
    monkeypatch.setenv("SUN_W4A16_DENSE_COPY", "1")
    prepare_weights(scheme, layer)
    prepared, x = getattr(layer, PREPARED), torch.randn(9, 512).bfloat16()
    assert torch.equal(multiply(scheme, layer, x), torch.nn.functional.linear(x, packed.dense(torch.bfloat16)))
    assert torch.equal(multiply(scheme, layer, x[:7]), prepared.multiply_by_kernel(x[:7]))


def test_rows_of_a_transposed_tensor_are_multiplied_in_order() -> None:
    layer, x = prepare(layer_of(64, torch.bfloat16), 3, dense_copy=False), torch.randn(512, 2).bfloat16().T
    assert torch.equal(layer.multiply(x), layer.multiply(x.contiguous()))
    many = torch.randn(512, 5).bfloat16().T
    assert torch.equal(layer.multiply(many), layer.multiply(many.contiguous()))


def test_first_rows_are_the_fewest_at_which_the_kernel_was_slower() -> None:
    def kernel(rows: int) -> float:
        return 1.0 + rows

    assert first_rows(kernel, lambda rows: 17.5) == 32
    assert first_rows(kernel, lambda rows: 0.0) == 4
    assert first_rows(kernel, lambda rows: 1e9) == 1024, "no number that was compared"


def test_measured_rows_are_one_of_the_compared_numbers_and_measured_once() -> None:
    arguments = (32, 64, 32, torch.bfloat16, 1, False)
    found = measured_rows(*arguments)
    assert found in (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    hits = measured_rows.cache_info().hits
    assert measured_rows(*arguments) == found
    assert measured_rows.cache_info().hits == hits + 1


def loaded(packed: PackedLayer) -> tuple[Any, Any]:
    """Return SGLang's scheme and layer as they are when the weights have been loaded."""
    layer = SimpleNamespace(weight_packed=torch.nn.Parameter(packed.words, requires_grad=False))
    layer.weight_scale = torch.nn.Parameter(packed.scales, requires_grad=False)
    if packed.zero_words is not None:
        layer.weight_zero_point = torch.nn.Parameter(packed.zero_words, requires_grad=False)
    if packed.group_of is not None:
        layer.weight_g_idx = torch.nn.Parameter(packed.group_of, requires_grad=False)
    config = SimpleNamespace(partition_weight_shape=(packed.columns, packed.rows))
    return SimpleNamespace(kernel_config=config, pack_factor=32 // packed.num_bits), layer


@pytest.mark.parametrize("bias", [None, torch.randn(80).bfloat16()], ids=["no bias", "bias"])
def test_loaded_layer_multiplies_tokens_of_any_shape(bias: torch.Tensor | None) -> None:
    packed = layer_of(128, torch.bfloat16)
    scheme, layer = loaded(packed)
    prepare_weights(scheme, layer)
    assert isinstance(getattr(layer, PREPARED), Int4Layer)
    x = torch.randn(2, 3, 512).bfloat16()
    product = multiply(scheme, layer, x, bias=bias)
    assert product.shape == (2, 3, 80)
    require_close((product if bias is None else product - bias).flatten(0, 1), x.flatten(0, 1), packed.dense(), 2**-6)


def test_weights_that_are_loaded_again_replace_the_prepared_ones() -> None:
    first, second = layer_of(64, torch.float32), layer_of(64, torch.float32)
    scheme, layer = loaded(first)
    prepare_weights(scheme, layer)
    layer.weight_packed.data.copy_(~second.words)
    prepare_weights(scheme, layer)
    x = torch.randn(2, 512)
    expected = PackedLayer(~second.words, second.scales, 4, 512).dense()
    require_close(multiply(scheme, layer, x), x, expected, BFLOAT16)


def with_zero_points() -> PackedLayer:
    packed = layer_of(64, torch.float32)
    zeros = torch.randint(-8, 8, packed.scales.shape, dtype=torch.int8)
    return PackedLayer(packed.words, packed.scales, 4, 512, pack(zeros.T.contiguous(), 4).T.contiguous())


def permuted() -> PackedLayer:
    packed = layer_of(64, torch.float32)
    return PackedLayer(packed.words, packed.scales, 4, 512, None, (torch.randperm(512) % 8).int())


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (layer_of(64, torch.float32, num_bits=8), "integers of 4 bits, not of 8"),
        (layer_of(None, torch.float32), "not one scale for each row"),
        (layer_of(16, torch.float32), "not groups of 16"),
        (layer_of(64, torch.float32, rows=24), "outputs in multiples of 16, not 24"),
        (with_zero_points(), "without zero points"),
        (permuted(), "not `actorder: group`"),
    ],
    ids=["8 bits", "channelwise", "groups of 16", "24 outputs", "zero points", "permuted groups"],
)
def test_layer_that_the_kernel_does_not_take_is_kept_dense_and_said_once(
    packed: PackedLayer, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    load._log_once.cache_clear()
    scheme, layer = loaded(packed)
    with caplog.at_level(logging.INFO, "sun_sglang"):
        prepare_weights(scheme, layer)
        prepare_weights(scheme, layer)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert reason in record.getMessage()
    x = torch.randn(3, 512)
    assert torch.equal(getattr(layer, PREPARED), packed.dense())
    require_close(multiply(scheme, layer, x), x, packed.dense(), EXACT)


def test_way_to_multiply_is_said_when_the_weights_are_loaded(caplog: pytest.LogCaptureFixture) -> None:
    load._log_once.cache_clear()
    scheme, layer = loaded(layer_of(64, torch.bfloat16))
    with caplog.at_level(logging.INFO, "sun_sglang"):
        prepare_weights(scheme, layer)
    (record,) = caplog.records
    assert getattr(layer, PREPARED).kernel_rows == 8
    assert "80 x 512 weights, groups of 64: torch's 4-bit kernel below 8 rows" in record.getMessage()


def test_float32_is_added_to_the_types_of_activations() -> None:
    given = [torch.float16, torch.bfloat16]
    assert dtypes.add_float32(given, None) == [torch.float16, torch.bfloat16, torch.float32]


def test_hooks_on_weights_are_inactive_where_a_gpu_has_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "has_gpu", lambda: True)
    for patch in (schemes.PATCH, dtypes.PATCH, load.PATCH, apply.PATCH):
        assert patch.report().state == "inactive"
