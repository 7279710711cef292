"""Every figure is drawn from the committed reports, and from nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sun_sglang.bench.figures.figure import Figure
from sun_sglang.bench.figures.registry import FIGURES
from sun_sglang.bench.report import RESULTS
from sun_sglang.errors import UserError

COMMITTED = Path(__file__).parents[4] / RESULTS
each_figure = pytest.mark.parametrize("figure", FIGURES, ids=[figure.name for figure in FIGURES])


@each_figure
def test_figure_drawn_from_the_committed_reports_is_the_committed_one(figure: Figure, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name in figure.needs:
        file = results / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(COMMITTED / f"{name}.json", file)
    file = figure.draw(results, tmp_path)
    assert file.stem == figure.name
    committed = COMMITTED / file.name
    if file.suffix == ".md":
        assert file.read_text() == committed.read_text()
    else:
        # another release of the plotting library moves lines: its texts and its panels stay
        assert texts(file) == texts(committed)


def texts(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text().splitlines() if "<text" in line or 'id="axes_' in line]


@each_figure
def test_figure_without_its_report_is_an_error_that_names_the_file(figure: Figure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{figure.needs[0]}\.json"):
        figure.draw(tmp_path, tmp_path)


def test_figure_names_are_unique() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
