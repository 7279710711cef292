"""Multiply by compressed-tensors W4A16 weights on a CPU; SGLang calls Marlin."""

from __future__ import annotations

from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on
from sun_sglang.patches.weights.load import PREPARED
from sun_sglang.patches.weights.schemes import inactive_reason


def multiply(_scheme: Any, layer: Any, x: Any, bias: Any = None) -> Any:
    """Return `x` times a layer's weights, plus its bias: `(..., in)` to `(..., out)`, in the type of `x`.

    Args:
        _scheme: SGLang's `CompressedTensorsWNA16`.
        layer: the linear layer, after `prepare_weights`.
        x: activations.
        bias: `(out,)`; None where there is none.
    """
    import torch

    prepared = getattr(layer, PREPARED)
    if isinstance(prepared, torch.Tensor):
        return torch.nn.functional.linear(x, prepared.to(x.dtype), bias)
    product = prepared.multiply(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
    return product if bias is None else product + bias


PATCH = Patch(
    name="weights.apply",
    target="sglang.srt.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16."
    "CompressedTensorsWNA16.apply_weights",
    parameters=(("self", "layer", "x", "bias"),),
    kind="replace",
    hook=multiply,
    why="SGLang multiplies 4-bit weights with a GPU kernel",
    versions=on("multiplies with torch's 4-bit kernel, or with unpacked weights, on a CPU"),
    removable_when="when SGLang serves compressed-tensors W4A16 on a CPU",
    inactive_reason=inactive_reason,
)
