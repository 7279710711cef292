"""The tensors of one quantised linear layer, and the dense weight that they stand for.

weight_packed      (out, words) int32      the integers of each row, see `words.py`
weight_scale       (out, groups)           one group for a channelwise layer
weight_shape       (2,)                    [out, in]
weight_zero_point  (words of out, groups)  int32, packed along `out`; absent for symmetric weights
weight_g_idx       (in,) int32             group of each input (`actorder: group`); absent else
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sun_sglang.errors import CheckpointError
from sun_sglang.packed_weights.names import GROUP_OF, PACKED, SCALE, SHAPE, ZERO
from sun_sglang.packed_weights.rounding import Rounded
from sun_sglang.packed_weights.words import pack, unpack, words_for


@dataclass(frozen=True)
class PackedLayer:
    """A linear layer whose weight is packed integers. Its weight is `(integers - zero points) * scales`.

    Attributes:
        words: the integers, `(out, words)` int32.
        scales: `(out, groups)`, a floating-point type.
        num_bits: bits of one integer.
        columns: inputs of the layer.
        zero_words: the zero points, `(words of out, groups)` int32; None for symmetric weights.
        group_of: group of each input, `(in,)`; None where the groups follow the order of the inputs.
    """

    words: torch.Tensor
    scales: torch.Tensor
    num_bits: int
    columns: int
    zero_words: torch.Tensor | None = None
    group_of: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """Outputs of the layer."""
        return self.words.shape[0]

    @property
    def group_size(self) -> int:
        """Inputs that share a scale; all of them for a channelwise layer."""
        return self.columns // self.scales.shape[1]

    def integers(self) -> torch.Tensor:
        """Return the stored integers without their zero points, `(out, in)` int8."""
        return unpack(self.words, self.num_bits, self.columns)

    def dense(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the dense weight, `(out, in)`: products in float32, rounded to `dtype` once.

        compressed-tensors multiplies in the type of the scales, which rounds once more where that is a half type.
        """
        scales = self.scales.float()
        centred = self.integers().float()
        if self.zero_words is None and self.group_of is None:
            grouped = centred.view(self.rows, scales.shape[1], self.group_size)
            return grouped.mul_(scales[..., None]).view(self.rows, self.columns).to(dtype)
        groups = self._groups()
        if self.zero_words is not None:
            zeros = unpack(self.zero_words.T.contiguous(), self.num_bits, self.rows).T.float()
            centred -= zeros if scales.shape[1] == 1 else zeros[:, groups]
        return (centred * (scales if scales.shape[1] == 1 else scales[:, groups])).to(dtype)

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a symmetric layer under their names in a checkpoint.

        Args:
            prefix: name of the layer, without a dot at its end.
        """
        assert self.zero_words is None
        assert self.group_of is None
        shape = torch.tensor([self.rows, self.columns], dtype=torch.int64)
        return {f"{prefix}.{PACKED}": self.words, f"{prefix}.{SCALE}": self.scales, f"{prefix}.{SHAPE}": shape}

    def _groups(self) -> torch.Tensor:
        if self.group_of is not None:
            return self.group_of.long()
        return torch.arange(self.columns, device=self.words.device) // self.group_size


def packed_layer(prefix: str, tensors: Mapping[str, torch.Tensor]) -> PackedLayer:
    """Return a layer of a checkpoint. The number of bits follows from the shapes.

    Args:
        prefix: name of the layer, without a dot at its end.
        tensors: the tensors of the checkpoint, or of this layer, by name.

    Raises:
        CheckpointError: a tensor is missing, or their shapes do not fit each other; names the layer.
    """

    def part(name: str) -> torch.Tensor:
        if (tensor := tensors.get(f"{prefix}.{name}")) is None:
            raise CheckpointError(f"{prefix}: has `{PACKED}` without `{name}`; is this format `pack-quantized`?")
        return tensor

    words, scales = part(PACKED), part(SCALE)
    shape = part(SHAPE)
    if tuple(shape.shape) != (2,) or shape.is_floating_point():
        raise CheckpointError(f"{prefix}.{SHAPE}: {tuple(shape.shape)} {shape.dtype} is not two whole numbers")
    rows, columns = (int(number) for number in shape.tolist())
    bits = words.shape[-1] * 32 // columns if words.ndim and columns else 0
    zero_words, group_of = tensors.get(f"{prefix}.{ZERO}"), tensors.get(f"{prefix}.{GROUP_OF}")
    if (
        words.ndim != 2
        or words.dtype != torch.int32
        or not 1 <= bits <= 8
        or words_for(columns, bits) != words.shape[1]
    ):
        raise CheckpointError(
            f"{prefix}.{PACKED}: {tuple(words.shape)} {words.dtype} does not hold {rows} x {columns} integers "
            "of 1 to 8 bits without gaps; quantise the model again with compressed-tensors 0.18 or later"
        )
    groups = scales.shape[1] if scales.ndim == 2 else 0
    if words.shape[0] != rows or scales.shape[0] != rows or not groups or columns % groups:
        raise CheckpointError(f"{prefix}.{SCALE}: {tuple(scales.shape)} does not fit a weight of {rows} x {columns}")
    if not scales.is_floating_point():
        raise CheckpointError(f"{prefix}.{SCALE}: {scales.dtype} is no floating-point type; quantise the model again")
    if zero_words is not None and (tuple(zero_words.shape), zero_words.dtype) != (
        (words_for(rows, bits), groups),
        torch.int32,
    ):
        raise CheckpointError(
            f"{prefix}.{ZERO}: {tuple(zero_words.shape)} {zero_words.dtype} does not fit {rows} rows, {groups} groups"
        )
    if group_of is not None and -1 in group_of:
        # compressed-tensors' mark for groups in the order of the inputs (`forward_helpers.py`)
        group_of = None
    if group_of is not None and not _is_group_of(group_of, columns, groups):
        raise CheckpointError(
            f"{prefix}.{GROUP_OF}: {tuple(group_of.shape)} {group_of.dtype} does not name one of {groups} groups for "
            f"each of {columns} inputs; quantise the model again"
        )
    return PackedLayer(words, scales, bits, columns, zero_words, group_of)


def _is_group_of(group_of: torch.Tensor, columns: int, groups: int) -> bool:
    if tuple(group_of.shape) != (columns,) or group_of.is_floating_point() or not columns:
        return False
    return int(group_of.min()) >= 0 and int(group_of.max()) < groups


def pack_rounded(rounded: Rounded) -> PackedLayer:
    """Return a layer with these integers and scales."""
    return PackedLayer(
        pack(rounded.integers, rounded.num_bits), rounded.scales, rounded.num_bits, rounded.integers.shape[1]
    )
