"""A study -> one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.report.drawing.palette import look, variables
from sun_sglang.bench.serving.report.drawing.panel import draw
from sun_sglang.bench.serving.report.figures.figure import Figure
from sun_sglang.bench.serving.report.figures.registry import FIGURES
from sun_sglang.bench.serving.report.headline import headline
from sun_sglang.bench.serving.report.study.names import readable
from sun_sglang.bench.serving.report.study.point import Point, describe, varying
from sun_sglang.bench.serving.report.study.study import Study
from sun_sglang.bench.serving.report.tables import faults, origin
from sun_sglang.bench.serving.report.tables.comparison import at_point, every_point
from sun_sglang.bench.serving.report.tables.table import Table
from sun_sglang.bench.serving.report.tables.tasks import tasks_at
from sun_sglang.bench.serving.report.tables.turns import turns_at
from sun_sglang.files.replace_file import replace_file

_NEEDED = ("jinja2", "matplotlib")
_MOST_POINTS = 12


def require_libraries() -> None:
    """Check that a page can be made.

    Raises:
        BenchError: a library is missing.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise BenchError(f"--report: {', '.join(missing)} cannot be imported; pip install 'sun-sglang[bench]'")


def write_page(study: Study, file: Path) -> None:
    """Write the page of a study; an earlier file of that name is replaced as a whole.

    Raises:
        BenchError: a library is missing, or the file cannot be written.
    """
    require_libraries()
    page = render_page(study)
    try:
        replace_file(file, lambda new: new.write_text(page, encoding="utf-8"))
    except OSError as e:
        raise BenchError(f"--report: {file} cannot be written ({e.strerror or e})") from e


def render_page(study: Study) -> str:
    """Return the page of a study; equal studies give equal pages."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    template = environment.from_string(_read("report.html.j2"))
    tasks = _by_point(study, tasks_at)
    turns = [(label, table) for label, table in _by_point(study, turns_at) if table.rows]
    return template.render(
        title=f"Benchmark of {_and([system.label for system in study.systems])}",
        style=_style(),
        look_of=look,
        headline=headline(study),
        points=len(study.points),
        verdict=faults.verdict(study),
        is_valid=faults.is_valid(study),
        comparison=at_point(study, study.headline),
        systems=study.systems,
        figures=[_figure(make(study)) for make in FIGURES],
        every_point=every_point(study),
        tasks=tasks,
        turns=turns,
        tasks_left_out=len(study.points) - _MOST_POINTS if len(study.points) > _MOST_POINTS else 0,
        failed=faults.failed_requests(study),
        problems=faults.problems(study),
        notes=faults.notes(study),
        systems_table=origin.systems(study),
        definitions=origin.definitions(study),
        origins=[origin.origin_of(source) for source in study.sources],
    )


def _finalize(value: object) -> object:
    """Return a value of the template as the page shows it; what is already HTML stays as it is."""
    return readable(value) if type(value) is str else value


def _figure(figure: Figure) -> dict[str, Any]:
    """Return a figure with its panels drawn."""
    import markupsafe

    rows = []
    for row_number, row in enumerate(figure.rows):
        panels = [
            # escaped by the drawing
            {"title": panel.title, "svg": markupsafe.Markup(draw(panel, f"{figure.key}-{row_number}-{number}"))}
            for number, panel in enumerate(row.panels)
        ]
        rows.append({"label": row.label, "panels": panels, "grids": row.grids})
    return {
        "key": figure.key,
        "title": figure.title,
        "caption": figure.caption,
        "missing": figure.missing,
        "left_out": figure.left_out,
        "has_panels": any(row.panels for row in figure.rows),
        # rows of one panel stand side by side
        "is_narrow": all(len(row.panels) == 1 for row in figure.rows),
        "rows": rows,
    }


def _by_point(study: Study, table_at: Callable[[Study, Point], Table]) -> Sequence[tuple[str, Table]]:
    """Return a table of each point, the headline point's first; of many points, only of some."""
    shown = varying(study.points)
    points = sorted(study.points, key=lambda point: point != study.headline)[:_MOST_POINTS]
    return [(describe(point, shown) or describe(point), table_at(study, point)) for point in points]


def _and(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _style() -> Any:
    import markupsafe

    def block(*, dark: bool) -> str:
        return "".join(f" --{name}: {colour};" for name, colour in variables(dark=dark).items())

    colours = f":root {{{block(dark=False)} }}\n@media (prefers-color-scheme: dark) {{ :root {{{block(dark=True)} }} }}"
    return markupsafe.Markup(f"{colours}\n{_read('report.css')}")


def _read(name: str) -> str:
    return resources.files("sun_sglang.bench.serving.report.page").joinpath(name).read_text(encoding="utf-8")
