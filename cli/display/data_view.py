"""The data of a training as tables and coloured text, for `sun train --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sun_sglang.train.data.preview import DataPreview, PreviewedExample

_LONGEST_TEXT = 2000
_LOSS_STYLE = "bold green"
# where the output has no colours
_LOSS_MARKS = ("[loss>>", "<<loss]")


def data_views(preview: DataPreview, used: int, console: Console) -> Iterator[RenderableType]:
    """Yield what to print about a data set.

    Args:
        preview: the data set.
        used: number of examples that are trained or validated on.
        console: where it is printed; without colours, marks stand around the text with a loss.
    """
    report = preview.report
    is_coloured = console.color_system is not None and not console.no_color
    marks = ("", "") if is_coloured else _LOSS_MARKS
    for example in preview.examples:
        yield _example(example, marks)
    table = Table("what", "value", title="Data", title_justify="left", show_header=False)
    table.add_row("format", report.format)
    table.add_row("tokens with a loss", f"{preview.loss_share:.1%}")
    table.add_row("longest example", Text(f"{report.longest:,} tokens ({report.longest_at})"))
    total = used + report.left_out_count
    for finding in report.left_out:
        table.add_row(f"left out: {finding.count:,} of {total:,}", Text(f"{finding.text}; first: {finding.first}"))
    for finding in report.notes:
        table.add_row("note", Text(finding.describe()))
    yield table


def _example(example: PreviewedExample, marks: tuple[str, str]) -> RenderableType:
    prompt, loss = _printable(_shortened(example.prompt)), _printable(_shortened(example.loss))
    text = Text()
    text.append(prompt, style="dim")
    text.append(f"{marks[0]}{loss}{marks[1]}", style=_LOSS_STYLE)
    title = Text(f"{example.at}: {example.prompt_tokens:,} tokens, then {example.loss_tokens:,} with a loss")
    return Panel(text, title=title, title_align="left")


def _shortened(text: str) -> str:
    left_out = len(text) - _LONGEST_TEXT
    half = _LONGEST_TEXT // 2
    return text if left_out <= 0 else f"{text[:half]} ... {left_out:,} characters ... {text[-half:]}"


def _printable(text: str) -> str:
    """Return a text without characters that a terminal obeys."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
