"""The table's rows: the prefill and the decode module of each, and the tunings that they need. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sun_sglang.bench.smollm2.quantized.recipes import BASE, FULL, SUN, Tuning
from sun_sglang.bench.training.quantized_cells import METHODS, UNQUANTIZED, Cell


class Module(NamedTuple):
    """Weights of one side.

    Attributes:
        tuning: the tuning that made them; None for the base's.
        grid: name of the grid that they were quantised to; None in 16 bits.
    """

    tuning: Tuning | None = None
    grid: str | None = None


class Pair(NamedTuple):
    """The modules of a row, for one task."""

    prefill: Module
    decode: Module


_FULL_ROWS = ("full", "full_quantized")


def cells_of(grids: Iterable[str], *, full: bool = True) -> list[Cell]:
    """Return the rows, one for each grid where a row has quantised weights.

    Args:
        grids: names of the grids.
        full: whether the rows of full fine-tuning are among them.
    """
    names = list(grids)
    return [
        Cell(method, grid)
        for method, quantized in METHODS.items()
        if full or method not in _FULL_ROWS
        for grid in (names if quantized else [UNQUANTIZED])
    ]


def pair_of(cell: Cell, task: str, seed: int) -> Pair:
    """Return the modules of a row.

    Args:
        cell: the row and its grid.
        task: name of the task.
        seed: seed of its tunings.
    """
    grid = cell.grid if METHODS[cell.method] else None
    if cell.method in _FULL_ROWS:
        both = Module(Tuning(task, seed, FULL), grid)
        return Pair(both, both)
    # the control and `sun_retuned` were tuned again for the decoder in 16 bits
    again = {"sun": None, "sun_quantized": None, "qsun": grid, "control": BASE, "sun_retuned": BASE}[cell.method]
    return Pair(Module(Tuning(task, seed, SUN, again)), Module(grid=grid))


def tunings_of(pairs: Iterable[Pair]) -> list[list[Tuning]]:
    """Return the tunings that rows need, in stages: each starts from modules of the stages before it."""
    needed = {module.tuning: None for pair in pairs for module in pair if module.tuning is not None}
    firsts = {tuning.first: None for tuning in needed}
    return [list(firsts), [tuning for tuning in needed if tuning not in firsts]]
