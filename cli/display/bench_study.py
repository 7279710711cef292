"""Several results of `sun bench` side by side as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as TerminalTable
from rich.text import Text

from sun_sglang.bench.serving.report.headline import headline
from sun_sglang.bench.serving.report.study.names import readable
from sun_sglang.bench.serving.report.study.study import Study
from sun_sglang.bench.serving.report.tables.comparison import brief
from sun_sglang.bench.serving.report.tables.faults import notes, problems
from sun_sglang.bench.serving.report.tables.table import Cell, Table


def render_study(study: Study) -> RenderableType:
    """Return the answer, the numbers of each system at each point, and what the reader should know."""
    found = headline(study)
    parts: list[RenderableType] = [Text(sentence, style="bold") for sentence in found.sentences]
    parts.append(Text(f"at {found.where}"))
    parts.append(render_table(brief(study)))
    bad = problems(study)
    if bad.rows:
        parts.append(render_table(bad))
    parts.extend(Text(f"note: {readable(note)}", style="yellow") for note in notes(study))
    return Group(*parts)


def render_table(table: Table) -> RenderableType:
    """Return a table of a report for a terminal."""
    found = TerminalTable(box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        is_name = number < table.heads
        found.add_column(Text(column), justify="left" if is_name else "right", overflow="fold")
    for row in table.rows:
        found.add_row(*map(_cell, row))
    return Group(found, *([Text(table.note)] if table.note else []))


def _cell(cell: Cell) -> Text:
    return Text.assemble(readable(cell.text), (f"\n{cell.detail.replace(' to ', '-')}" if cell.detail else "", "dim"))
