"""Every figure, and the reports that it is drawn from."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.figures.accuracy_table import AccuracyTable
from sun_sglang.bench.figures.figure import Figure
from sun_sglang.bench.figures.sharing import SharingFigure
from sun_sglang.bench.figures.step_cost_table import StepCostTable
from sun_sglang.bench.report import read_report

FIGURES: tuple[Figure, ...] = (AccuracyTable(), SharingFigure(), StepCostTable())


def draw_figure(figure: Figure, results: Path, folder: Path) -> Path:
    """Draw a figure from the reports in a folder and return its file.

    Args:
        figure: the figure.
        results: folder of the reports.
        folder: existing folder of the figure's file.

    Raises:
        ReportError: a report is missing or is not a report.
    """
    return figure.draw({name: read_report(results / f"{name}.json") for name in figure.needs}, folder)
