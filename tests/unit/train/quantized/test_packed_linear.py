"""A packed linear layer computes, forward and backward, what a dense layer with the dequantised weight computes."""

from __future__ import annotations

import pytest
import torch

from sun_sglang.packed_weights.layer import PackedLayer, pack_rounded
from sun_sglang.packed_weights.rounding import round_to_nearest
from sun_sglang.packed_weights.words import pack
from sun_sglang.train.quantized.packed_linear import PackedLinear

ROWS, COLUMNS = 24, 64


def rounded(bits: int, group: int | None) -> PackedLayer:
    torch.manual_seed(0)
    return pack_rounded(round_to_nearest(torch.randn(ROWS, COLUMNS, dtype=torch.bfloat16), bits, group))


def asymmetric() -> PackedLayer:
    """Return a layer with zero points, and groups that do not follow the order of its inputs."""
    layer = rounded(4, 32)
    zeros = torch.randint(-8, 8, (ROWS, 2), dtype=torch.int8)
    group_of = torch.randint(0, 2, (COLUMNS,), dtype=torch.int32)
    return PackedLayer(layer.words, layer.scales, 4, COLUMNS, pack(zeros.T.contiguous(), 4).T.contiguous(), group_of)


@pytest.mark.parametrize(
    "layer",
    [*(rounded(bits, group) for bits in range(2, 9) for group in (16, None)), asymmetric()],
    ids=lambda layer: f"{layer.num_bits} bits, {layer.scales.shape[1]} groups, {layer.zero_words is not None}",
)
def test_packed_linear_has_the_output_and_the_gradients_of_its_dense_twin(layer: PackedLayer) -> None:
    torch.manual_seed(1)
    bias = torch.randn(ROWS, dtype=torch.float64)
    inputs = torch.randn(2, 5, COLUMNS, dtype=torch.float64)
    own, other = (inputs.clone().requires_grad_() for _ in range(2))
    out = PackedLinear(layer, bias)(own)
    expected = torch.nn.functional.linear(other, layer.dense(torch.float64), bias)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert own.grad is not None
    assert torch.equal(out, expected)
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-12, atol=1e-12)


def test_packed_linear_under_autocast_has_autocast_dtype_and_the_inputs_gradient_dtype() -> None:
    layer = rounded(4, 32)
    own, other = (torch.ones(3, COLUMNS).mul(0.3).requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = PackedLinear(layer, torch.ones(ROWS))(own)
        expected = torch.nn.functional.linear(other, layer.dense(torch.float32), torch.ones(ROWS))
    out.sum().backward()
    expected.sum().backward()
    assert (out.dtype, own.grad is not None and own.grad.dtype) == (torch.bfloat16, torch.float32)
    # the bias is added after the product is rounded
    torch.testing.assert_close(out, expected, rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(own.grad, other.grad)


def test_packed_linear_keeps_only_packed_tensors_and_no_parameter() -> None:
    module = PackedLinear(rounded(4, 32))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = module(torch.ones(1, COLUMNS, requires_grad=True))
    assert out.requires_grad
    assert sum(t.nbytes for t in kept) == 0
    assert not list(module.parameters())
    assert {name: b.dtype for name, b in module.named_buffers()} == {"words": torch.int32, "scales": torch.bfloat16}


def test_packed_linear_without_a_gradient_to_its_input_records_no_graph() -> None:
    assert not PackedLinear(rounded(4, 32))(torch.ones(1, COLUMNS)).requires_grad
