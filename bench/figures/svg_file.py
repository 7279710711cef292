"""An SVG file of several panels, drawn with matplotlib; equal drawings give an equal file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def svg_panels(file: Path, rows: int, columns: int, size: tuple[float, float], **shared: bool | str) -> Iterator[Any]:
    """Yield the panels of a drawing, matplotlib's `Axes`, and write its file at the end.

    Args:
        file: the SVG file.
        rows: rows of panels.
        columns: panels in a row.
        size: width and height in inches.
        shared: the axes that the panels share: `sharex`, `sharey`; of each row (`"row"`) or of all (True).
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    # text as text, and no date
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sun"})
    figure, panels = pyplot.subplots(rows, columns, figsize=size, layout="constrained", **shared)
    yield panels
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
