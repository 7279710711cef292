"""A linear layer with 4-bit weights on a CPU, and the ways to multiply by it.

1. **The kernel**: torch's `_weight_int4pack_mm_for_cpu` reads 4 bits for each weight. It is the fastest for a few rows,
   which are bound by memory. Its cost grows with each row: it does not use the processor's matrix instructions.
2. **Unpacked for the call**: the weights become dense in pieces that stay in the processor's cache, and a dense
   multiplication follows. It costs the same for one row as for a hundred, so it is the fastest for many rows: prompts.
3. **A dense copy**, instead of the second way where `SUN_W4A16_DENSE_COPY=1` is set: it takes two more bytes for each
   weight, and is the fastest from about eight rows on where the processor has matrix instructions.

The number of rows from which on the kernel is slower is measured once for each shape when the weights are loaded. The
kernel is fast with bfloat16 activations alone, so it receives and returns bfloat16. The words of the checkpoint stay
beside the kernel's: 8 bits for each weight. `/update_weights_from_disk` can thus load new ones.

A layer that the kernel does not take (`cpu_limits.py`) has dense weights alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from sun_sglang.packed_weights.cpu_limits import LayerFormat, why_shape_unpacked
from sun_sglang.packed_weights.layer import PackedLayer

DENSE_COPY_VARIABLE = "SUN_W4A16_DENSE_COPY"
# bytes of dense weights that are multiplied at once: they stay in the second-level cache of a core
_PIECE = 1 << 20
# bfloat16 has 7 bits of mantissa: 128 + q, for q of 4 bits, is 0x4300 with q in its lowest bits
_NIBBLES, _128 = 0x000F000F, 0x43004300
_ZERO = 128 + 8
_SHIFTS = torch.tensor([[0], [4], [8], [12]], dtype=torch.int32)
# numbers of rows at which the kernel is compared with another way, and how often
_ROWS = (4, 8, 16, 32, 64, 128, 256, 512)
_REPEATS = 3


@dataclass(frozen=True)
class Int4Layer:
    """A layer that torch's kernel takes.

    Attributes:
        words: the integers as the checkpoint has them, `(out, in / 8)` int32.
        scales: `(out, groups)`, in the type of the activations.
        kernel_words: the integers as the kernel reads them.
        kernel_scales: scales and zeros as the kernel reads them, `(groups, out, 2)` bfloat16.
        group_size: inputs that share a scale.
        kernel_rows: the kernel multiplies fewer rows than this.
        dense: the dense weights, which multiply more rows; None to unpack them for each call.
    """

    words: torch.Tensor
    scales: torch.Tensor
    kernel_words: torch.Tensor
    kernel_scales: torch.Tensor
    group_size: int
    kernel_rows: int
    dense: torch.Tensor | None = None

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` times the weights: `(rows, in)` to `(rows, out)`, in the type of `x`."""
        if x.shape[0] < self.kernel_rows:
            return self.multiply_by_kernel(x)
        return self.multiply_dense(x)

    def multiply_by_kernel(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` times the weights by the first way."""
        if not x.shape[0]:
            return x.new_empty(0, self.words.shape[0])
        rows = x.to(torch.bfloat16).contiguous()
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self.kernel_words, self.group_size, self.kernel_scales
        )
        return product.to(x.dtype)

    def multiply_dense(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` times the weights by the third way if the layer has a dense copy, else by the second."""
        if self.dense is not None:
            return torch.nn.functional.linear(x, self.dense.to(x.dtype))
        return self.multiply_unpacked(x)

    def multiply_unpacked(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` times the weights by the second way."""
        outputs, columns = self.words.shape[0], self.words.shape[1] * 8
        # word j of a row holds inputs 8j to 8j + 7; a shift leaves two of them, four apart, in its halves
        rows = x.reshape(-1, columns // 8, 2, 4).permute(0, 3, 1, 2).reshape(-1, columns)
        product = x.new_empty(rows.shape[0], outputs)
        step = max(1, min(outputs, _PIECE // (2 * columns)))
        piece = torch.empty(step, 4, columns // 8, dtype=torch.int32)
        for first in range(0, outputs, step):
            last = min(first + step, outputs)
            product[:, first:last] = rows @ self._dense(first, last, piece[: last - first]).to(x.dtype).T
        return product

    def _dense(self, first: int, last: int, piece: torch.Tensor) -> torch.Tensor:
        """Return the dense weights of outputs `first` to `last`, with the inputs in the order of the shifts.

        Args:
            first: first output.
            last: the output after the last one.
            piece: memory for them, `(last - first, 4, in / 8)` int32; each word receives two bfloat16 values.
        """
        words, outputs = self.words[first:last], last - first
        torch.bitwise_right_shift(words[:, None], _SHIFTS, out=piece)
        piece.bitwise_and_(_NIBBLES).bitwise_or_(_128)
        groups = piece.view(torch.bfloat16).view(outputs, 4, -1, self.group_size // 4)
        groups.sub_(_ZERO)
        scales = self.scales[first:last, None, :, None]
        dense = groups.mul_(scales) if scales.dtype == groups.dtype else groups * scales
        return dense.view(outputs, -1)


def keeps_dense_copy(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment asks for dense copies."""
    return environ.get(DENSE_COPY_VARIABLE) == "1"


def int4_layer(packed: PackedLayer, dense_copy: bool) -> Int4Layer:
    """Return a layer that torch's kernel takes, with the way to multiply that is the fastest on this machine."""
    size, dtype = packed.group_size, packed.scales.dtype
    return prepare(
        packed, measured_rows(packed.rows, packed.columns, size, dtype, torch.get_num_threads(), dense_copy), dense_copy
    )


def why_dense(packed: PackedLayer) -> str:
    """Return the reason why torch's kernel does not take a layer; empty where it takes it."""
    size = packed.group_size if packed.scales.shape[1] > 1 or packed.group_size < packed.columns else None
    found = LayerFormat(packed.num_bits, size, packed.zero_words is None, packed.group_of is not None)
    return why_shape_unpacked(packed.rows, packed.columns, found)


def prepare(packed: PackedLayer, kernel_rows: int, dense_copy: bool) -> Int4Layer:
    """Return a layer whose kernel multiplies fewer rows than `kernel_rows`, with or without a dense copy."""
    integers = packed.integers().to(torch.int32) + 8
    scales = packed.scales.T.to(torch.bfloat16)
    return Int4Layer(
        words=packed.words,
        scales=packed.scales,
        kernel_words=torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers, 1),
        kernel_scales=torch.stack([scales, torch.zeros_like(scales)], dim=2).contiguous(),
        group_size=packed.group_size,
        kernel_rows=kernel_rows,
        dense=packed.dense(packed.scales.dtype) if dense_copy else None,
    )


@lru_cache(maxsize=64)
def measured_rows(
    outputs: int, columns: int, group_size: int, dtype: torch.dtype, threads: int, dense_copy: bool
) -> int:
    """Return the number of rows from which on another way is faster than the kernel on this machine.

    Args:
        outputs: of the layer.
        columns: inputs of the layer.
        group_size: inputs that share a scale.
        dtype: type of the activations.
        threads: threads that torch uses; the measurement depends on it.
        dense_copy: whether the layer has one.
    """
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31 - 1, (outputs, columns // 8), dtype=torch.int32, generator=generator)
    scales = torch.full((outputs, columns // group_size), 0.01, dtype=dtype)
    layer = prepare(PackedLayer(words, scales, 4, columns), 0, dense_copy)
    return first_rows(
        lambda rows: _seconds(layer.multiply_by_kernel, torch.ones(rows, columns, dtype=dtype)),
        lambda rows: _seconds(layer.multiply_dense, torch.ones(rows, columns, dtype=dtype)),
    )


def first_rows(kernel: Callable[[int], float], dense: Callable[[int], float]) -> int:
    """Return the first number of rows at which the kernel took more time than another way.

    The other way multiplies more rows than were compared: the kernel's time grows with each row.

    Args:
        kernel: returns the seconds that the kernel takes for so many rows.
        dense: returns the seconds that the other way takes.
    """
    return next((rows for rows in _ROWS if dense(rows) < kernel(rows)), 2 * _ROWS[-1])


def _seconds(multiply: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Return the shortest of some runs: other processes only make a run longer."""
    multiply(x)
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        multiply(x)
        best = min(best, time.perf_counter() - started)
    return best
