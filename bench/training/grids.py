"""The grids that a benchmark rounds weights to, and the quantisers that do it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from sun_sglang.packed_weights.checkpoint import write_rounded


class Grid(NamedTuple):
    """One way to quantise a checkpoint.

    Attributes:
        quantizer: key of `QUANTIZERS`.
        bits: bits of a weight.
        group: weights that share a scale.
    """

    quantizer: str
    bits: int
    group: int

    @property
    def name(self) -> str:
        """The grid's name in files and reports, such as `rtn-4-128`."""
        return f"{self.quantizer}-{self.bits}-{self.group}"

    def quantize(self, model: Path, out: Path) -> None:
        """Write a quantised copy of a checkpoint.

        Args:
            model: directory of the checkpoint.
            out: directory to write; must not exist.
        """
        QUANTIZERS[self.quantizer](model, out, self)


def _round(model: Path, out: Path, grid: Grid) -> None:
    write_rounded(model, out, grid.bits, grid.group)


QUANTIZERS: Mapping[str, Callable[[Path, Path, Grid], None]] = MappingProxyType({"rtn": _round})
"""Writers of quantised checkpoints by name. `rtn`: round to the nearest integer, without calibration."""


def grid_of(text: str) -> Grid:
    """Return the grid of a command-line argument: `BITS:GROUP` or `QUANTIZER:BITS:GROUP`.

    Raises:
        argparse.ArgumentTypeError: the argument is no grid.
    """
    parts = text.split(":")
    quantizer, *sizes = parts if len(parts) == 3 else ["rtn", *parts]
    if len(sizes) != 2 or quantizer not in QUANTIZERS or not all(size.isdecimal() for size in sizes):
        known = ", ".join(QUANTIZERS)
        raise argparse.ArgumentTypeError(
            f"`{text}` is no grid; write BITS:GROUP, or QUANTIZER:BITS:GROUP with a quantizer of {known}"
        )
    bits, group = map(int, sizes)
    if not 2 <= bits <= 8 or group < 1:
        raise argparse.ArgumentTypeError(f"`{text}`: weights have 2 to 8 bits, in groups of at least 1")
    return Grid(quantizer, bits, group)
