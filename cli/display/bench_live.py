"""The display of `sun bench` while it runs: a bar and counts in a terminal, else one line for each phase."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sun_sglang.bench.load.drive.progress import Progress
from sun_sglang.bench.load.workload.settings import WorkloadSettings
from sun_sglang.bench.serving.run import Moment
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.cli.display.display_thread import DisplayThread

_BAR = 40
_MOMENTS = 10


class BenchView(Protocol):
    """Shows a run."""

    def show(self, moment: Moment) -> None:
        """Show the state of the run; it does not wait for the terminal."""


@dataclass(frozen=True)
class _Shown:
    """Counts at one moment, and the rates of the last seconds."""

    elapsed: float
    sent: int
    in_flight: int
    succeeded: int
    failed: tuple[tuple[str, int], ...]
    requests_per_second: float
    tokens_per_second: float


class BenchDisplay:
    """The display of a whole benchmark: each run, and the starts between them.

    Args:
        console: a terminal, a pipe or a file.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def starting(self, system: str) -> Iterator[None]:
        """Show that a system is being started, until the context ends."""
        if self._console.is_terminal:
            with self._console.status(f"starting {system} ..."):
                yield
        else:
            self._console.print(f"starting {system}", markup=False, soft_wrap=True)
            yield

    @contextmanager
    def run(self, title: str, settings: BenchSettings) -> Iterator[Callable[[Moment], None]]:
        """Show a run until the context ends; returns what is called with its state.

        Args:
            title: the system, and which of the runs it is.
            settings: the settings of the run.
        """
        with live_view(self._console, settings, title) as view:
            yield view.show


@contextmanager
def live_view(console: Console, settings: BenchSettings, target: str) -> Iterator[BenchView]:
    """Show a run on a console until it ends.

    Args:
        console: a terminal, a pipe or a file.
        settings: the settings of the run.
        target: name of what is measured.
    """
    headline = f"{target}: {describe_load(settings.workload)}"
    display = DisplayThread(lambda: None)
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                yield _Bar(live, display, settings.workload, headline)
                display.close()
        else:
            yield _Lines(console, display, settings.workload, headline)
    finally:
        display.close()


def describe_load(workload: WorkloadSettings) -> str:
    """Return a load in one line: its tasks, their popularity, and how requests are sent."""
    unit = "requests" if workload.workload == "requests" else f"sessions of {workload.workload}"
    parts = [f"{len(workload.tasks)} {'task' if len(workload.tasks) == 1 else 'tasks'}", f"Zipf {workload.zipf:g}"]
    if workload.request_rate is not None:
        parts.append(f"{workload.request_rate:g} {unit}/s ({workload.arrival_pattern})")
    if workload.concurrency is not None:
        most = "at most " if workload.request_rate is not None else ""
        parts.append(f"{most}{workload.concurrency} {unit} in flight")
    if workload.input_file:
        parts.append(f"input {', '.join(Path(name).name for name in workload.input_file)}")
    return ", ".join(parts)


class _Bar:
    def __init__(self, live: Live, display: DisplayThread, workload: WorkloadSettings, headline: str) -> None:
        self._live = live
        self._display = display
        self._workload = workload
        self._headline = headline
        # seconds, answers and tokens at the last moments: rates over 5 s do not flicker
        self._before = deque([(0.0, 0, 0)], maxlen=_MOMENTS)

    def show(self, moment: Moment) -> None:
        shown = self._rates(moment)
        self._display.show(lambda: self._live.update(self._render(shown), refresh=True))

    def _rates(self, moment: Moment) -> _Shown:
        progress: Progress = moment.progress
        elapsed, requests, tokens = self._before[0]
        seconds = max(moment.elapsed - elapsed, 1e-9)
        self._before.append((moment.elapsed, progress.succeeded, progress.tokens))
        return _Shown(
            moment.elapsed,
            progress.sent,
            progress.in_flight,
            progress.succeeded,
            tuple(progress.failed.items()),
            (progress.succeeded - requests) / seconds,
            (progress.tokens - tokens) / seconds,
        )

    def _render(self, shown: _Shown) -> RenderableType:
        total, warm_up = self._workload.duration, self._workload.warmup_duration
        in_window = shown.elapsed >= warm_up
        phase = Text("window " if in_window else "warm-up", style="bold green" if in_window else "bold yellow")
        line = Table.grid(padding=(0, 1))
        line.add_row(
            phase,
            ProgressBar(total=total, completed=min(shown.elapsed, total), width=_BAR),
            f"{shown.elapsed:.0f} of {total:.0f} s",
        )
        counts = Text.assemble(
            f"sent {shown.sent:,}  in flight {shown.in_flight:,}  answered {shown.succeeded:,}  ",
            f"{shown.requests_per_second:.1f} requests/s  {shown.tokens_per_second:,.0f} tokens/s of answers",
        )
        failed = Text("  ".join(f"{kind} {count:,}" for kind, count in shown.failed), style="red")
        rows: list[RenderableType] = [Text(self._headline, style="bold"), line, counts]
        return Group(*rows, *([failed] if shown.failed else []))


class _Lines:
    def __init__(self, console: Console, display: DisplayThread, workload: WorkloadSettings, headline: str) -> None:
        self._console = console
        self._display = display
        self._workload = workload
        self._phase = ""
        self._print(headline)

    def show(self, moment: Moment) -> None:
        in_window = moment.elapsed >= self._workload.warmup_duration
        phase = "window" if in_window else "warm-up"
        if phase != self._phase:
            self._phase = phase
            seconds = self._workload.benchmark_duration if in_window else self._workload.warmup_duration
            self._print(f"{phase}: {seconds:g} s")

    def _print(self, line: str) -> None:
        self._display.note(lambda: self._console.print(line, markup=False, soft_wrap=True))
