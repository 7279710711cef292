"""The progress of `sun quantize`, and its summary."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from sun_sglang.quantize.job import Progress as Done
from sun_sglang.quantize.job import Stage
from sun_sglang.quantize.run import Prepared, Result

_NAMES: dict[Stage, str] = {
    "load": "loads the model",
    "reference": "runs the held-out samples on the model",
    "calibrate": "quantizes layers",
    "save": "writes the checkpoint",
    "measure": "runs them on the checkpoint",
}
_BAR = 40


class QuantizeProgress:
    """A bar for each stage on a terminal; elsewhere one line for each.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[Stage, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, done: Done) -> None:
        """Show a progress."""
        name = _NAMES[done.stage]
        if done.stage not in self._tasks:
            self._tasks[done.stage] = self._bars.add_task(name, total=done.total)
            if not self._console.is_terminal:
                self._console.print(name, markup=False)
        self._bars.update(self._tasks[done.stage], completed=done.done, total=done.total)


def plan_view(prepared: Prepared) -> RenderableType:
    """Return what a quantization would do, as a table."""
    table = _table("Dry run")
    _add_settings(table, prepared)
    table.add_row("tensors", f"{_size(prepared.plan.size_before)} to {_size(prepared.plan.size_after)}")
    table.add_row("memory", f"about {_size(prepared.memory)}")
    return table


def result_views(prepared: Prepared, result: Result) -> Iterator[RenderableType]:
    """Yield the error of each layer, and the summary."""
    quality = result.quality
    if quality is not None:
        most = max(quality.layers)
        layers = Table("layer", "error", "", title="Error of each layer's output", title_justify="left")
        for number, error in enumerate(quality.layers):
            bar = "█" * round(_BAR * error / most) if most else ""
            layers.add_row(str(number), f"{error:.2%}", Text(bar, style="yellow"))
        yield layers
    table = _table("Quantized")
    _add_settings(table, prepared)
    share = result.size_after / result.size_before
    table.add_row("size", f"{_size(result.size_before)} to {_size(result.size_after)} ({share:.0%})")
    if quality is not None:
        table.add_row("logits", f"{quality.logits:.1%} from the model's, at {quality.positions:,} held-out positions")
        table.add_row(
            "next token", f"KL divergence {quality.divergence:.4f}; {quality.agreement:.1%} have the same best"
        )
    table.add_row("duration", f"{result.seconds:,.0f} s")
    table.add_row("written", Text(str(prepared.settings.output)))
    yield table


def _table(title: str) -> Table:
    return Table("what", "value", title=title, title_justify="left", show_header=False)


def _add_settings(table: Table, prepared: Prepared) -> None:
    settings = prepared.settings
    matrices = len(prepared.plan.matrices)
    table.add_row(
        "grid", f"{settings.algorithm}, 4 bit, symmetric, groups of {settings.group_size}, {matrices} matrices"
    )
    used = f"{len(prepared.samples.calibration):,} of {prepared.tokens:,} tokens in all"
    table.add_row("samples", f"{used}; {len(prepared.samples.held_out):,} held out")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
