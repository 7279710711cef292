"""The interface of a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sun_sglang.bench.report import Report


class Figure(Protocol):
    """An image or a table that is drawn from reports alone.

    Attributes:
        name: the figure's file name, without its ending.
        needs: names of the reports that it is drawn from; each is a file `bench/results/NAME.json`.
    """

    name: str
    needs: tuple[str, ...]

    def draw(self, reports: Mapping[str, Report], folder: Path) -> Path:
        """Draw the figure into a folder and return its file; equal reports give an equal file.

        Args:
            reports: the reports in `needs`, by name.
            folder: an existing folder.
        """
        ...
