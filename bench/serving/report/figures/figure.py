"""A figure as data: what is drawn, not how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sun_sglang.bench.serving.report.study.quantities import Form

Kind = Literal["lines", "bars", "dots"]
"""Points on a line over a numeric axis; bars, or dots, side by side in groups."""


@dataclass(frozen=True)
class Mark:
    """One number.

    Attributes:
        x: where on the axis; of bars and dots, the number of the group.
        value: the number.
        low: lower end of its interval; equal to `value` where one repetition has none.
        high: upper end.
        text: the number for a reader, with its unit and interval.
    """

    x: float
    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Series:
    """The numbers of one system.

    Attributes:
        label: its name.
        number: its position in the study; gives its colour and shape.
        marks: the numbers, in the order in which a line connects them.
    """

    label: str
    number: int
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Ticks:
    """The horizontal axis.

    Attributes:
        label: its name with its unit.
        at: positions and texts of its ticks; empty: chosen by the drawing.
        is_log: whether it is logarithmic.
    """

    label: str
    at: tuple[tuple[float, str], ...] = ()
    is_log: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: the vertical quantity with its unit.
        kind: how its numbers are drawn.
        x: the horizontal axis.
        series: the systems.
        form: how numbers of the vertical axis are written.
        is_log: whether the vertical axis is logarithmic; else it begins at 0.
    """

    title: str
    kind: Kind
    x: Ticks
    series: tuple[Series, ...]
    form: Form = Form.NUMBER
    is_log: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    Attributes:
        share: the share that it shows; None where nothing was measured.
        text: the share for a reader.
        detail: its interval; empty where there is none.
    """

    share: float | None
    text: str
    detail: str = ""

    @property
    def short(self) -> float:
        """Percent that are missing to the whole."""
        return round(100 * max(0.0, 1 - self.share), 1) if self.share is not None else 0.0


@dataclass(frozen=True)
class Grid:
    """Shares of one system over two settings.

    Attributes:
        label: its name.
        number: its position in the study.
        corner: what the rows are, and what the columns are.
        columns: texts of the columns.
        rows: text and cells of each row.
    """

    label: str
    number: int
    corner: tuple[str, str]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Row:
    """Panels, or grids, at the same settings.

    Attributes:
        label: the settings, as far as they vary in the study; empty where none does.
        panels: the panels.
        grids: the grids.
    """

    label: str
    panels: tuple[Panel, ...] = ()
    grids: tuple[Grid, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        key: its name in the page's links.
        title: its title.
        caption: what it shows, and how to read it.
        rows: its rows; empty where it is missing.
        missing: why it is not drawn, and what would have it drawn; empty where it is drawn.
        left_out: number of rows over the limit.
    """

    key: str
    title: str
    caption: str
    rows: tuple[Row, ...] = ()
    missing: str = ""
    left_out: int = field(default=0)
