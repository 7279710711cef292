"""Round a dense weight to the nearest integers of a symmetric grid, with one scale for each group of a row."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Rounded(NamedTuple):
    """A weight on a grid: about `integers * scales`.

    Attributes:
        integers: `(out, in)` int8.
        scales: `(out, groups)`, in the type of the weight.
        num_bits: bits of one integer.
    """

    integers: torch.Tensor
    scales: torch.Tensor
    num_bits: int


def round_to_nearest(weight: torch.Tensor, num_bits: int, group_size: int | None) -> Rounded:
    """Return a weight on the nearest points of a symmetric grid.

    The largest value of a group lies at `(2**num_bits - 1) / 2` steps from zero, as in compressed-tensors
    (`calculate_qparams` in `quantization/utils/helpers.py`).

    Args:
        weight: `(out, in)`, a floating-point type.
        num_bits: bits of one integer, 2 to 8.
        group_size: inputs that share a scale; None for one scale for each row. Must divide `in`.
    """
    rows, columns = weight.shape
    size = group_size or columns
    assert 2 <= num_bits <= 8, num_bits
    assert columns % size == 0, (columns, size)
    grouped = weight.float().reshape(rows, columns // size, size)
    scales = grouped.abs().amax(dim=2, keepdim=True) / ((2**num_bits - 1) / 2)
    # the integers must fit the scales as they are stored; a group of zeros has any scale
    scales = torch.where(scales == 0, torch.ones_like(scales), scales).to(weight.dtype)
    half = 1 << num_bits - 1
    integers = torch.round(grouped / scales.float()).clamp_(-half, half - 1).to(torch.int8)
    return Rounded(integers.reshape(rows, columns), scales.reshape(rows, -1), num_bits)
