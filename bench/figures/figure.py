"""The interface of a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Figure(Protocol):
    """An image or a table that is drawn from files in `bench/results/` alone."""

    @property
    def name(self) -> str:
        """The figure's file name, without its ending."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the files that it is drawn from, reports or results of `sun bench`, without their ending."""
        ...

    def draw(self, results: Path, folder: Path) -> Path:
        """Draw the figure into a folder and return its file; equal files give an equal file.

        Args:
            results: the folder of the files in `needs`.
            folder: an existing folder.

        Raises:
            UserError: a file is missing or has another format.
        """
        ...
