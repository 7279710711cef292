"""A table as data."""

from __future__ import annotations

from dataclasses import dataclass

from sun_sglang.bench.load.metrics.interval import Interval
from sun_sglang.bench.serving.report.study.quantities import (
    Quantity,
    interval_text,
    ratio_interval_text,
    ratio_text,
)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: its text.
        detail: a smaller second line, such as an interval.
    """

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: its title; empty where the page has one.
        columns: the heads of the columns.
        rows: the cells.
        heads: number of columns, from the left, that name the row; the others are numbers.
        note: a sentence below it; empty for none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heads: int = 1
    note: str = ""


def number_cell(number: Interval | None, quantity: Quantity) -> Cell:
    """Return a number with its interval; a dash where there is none."""
    return Cell(quantity.text(number.value), interval_text(number, quantity)) if number else Cell("-")


def ratio_cell(ratio: Interval | None) -> Cell:
    """Return a ratio with its interval; a dash where there is none."""
    return Cell(ratio_text(ratio), ratio_interval_text(ratio)) if ratio else Cell("-")
