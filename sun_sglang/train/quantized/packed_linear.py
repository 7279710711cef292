"""A frozen linear layer with packed low-bit weights, and a backward pass to its input."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import linear

from sun_sglang.packed_weights.layer import PackedLayer


class PackedLinear(nn.Module):
    """A linear layer whose weight stays packed in memory, and is dequantised in each forward and each backward pass.

    Its tensors are buffers, so that no optimizer, FSDP2 or ZeRO-3 takes them for parameters. They keep their types.

    Args:
        layer: the packed weight.
        bias: [out]; None for none.
    """

    words: torch.Tensor
    scales: torch.Tensor
    zero_words: torch.Tensor | None
    group_of: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, layer: PackedLayer, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features, self.num_bits = layer.columns, layer.rows, layer.num_bits
        for name in ("words", "scales", "zero_words", "group_of"):
            self.register_buffer(name, getattr(layer, name))
        self.register_buffer("bias", bias)

    @property
    def layer(self) -> PackedLayer:
        """The packed weight, on the device of the module."""
        return PackedLayer(self.words, self.scales, self.num_bits, self.in_features, self.zero_words, self.group_of)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `inputs @ weight.T + bias`, [..., out], in the dtype of the inputs, or in autocast's.

        Args:
            inputs: [..., in].
        """
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        out: torch.Tensor = cast(Any, _PackedProduct).apply(inputs.to(dtype), self.layer)
        return out if self.bias is None else out + self.bias.to(dtype)

    def extra_repr(self) -> str:
        """Return the sizes, for the representation of the model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, num_bits={self.num_bits}"


class _PackedProduct(torch.autograd.Function):
    """`inputs @ weight.T`. The backward pass dequantises the weight again, so that only the packed one is kept."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, layer: PackedLayer) -> torch.Tensor:
        ctx.layer = layer
        return linear(inputs, layer.dense(inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.dense(gradient.dtype), None
