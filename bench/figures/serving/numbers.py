"""Numbers of a result as text, and a Markdown table of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sun_sglang.bench.load.metrics.interval import Interval
from sun_sglang.bench.load.metrics.repeated import Repeated
from sun_sglang.bench.serving.report.study.quantities import number_text
from sun_sglang.bench.serving.result import BenchResult, PointReport

NONE = "-"


def number(point: PointReport, system: str, metric: str) -> Repeated | None:
    """Return a number of a system at a point; None where it has none."""
    return point.systems[system].summary.get(metric)


def spread_text(found: Repeated | None) -> str:
    """Return a median with its least and largest value, such as `46.9 (45.1 to 48.0)`; one value alone."""
    if found is None:
        return NONE
    if found.repetitions == 1:
        return number_text(found.value)
    return f"{number_text(found.value)} ({number_text(found.min)} to {number_text(found.max)})"


def ratio_text(found: Interval | None) -> str:
    """Return a ratio with its interval, such as `2.1x (2.0 to 2.3)`; one repetition has no interval."""
    if found is None:
        return NONE
    ends = f" ({number_text(found.low)} to {number_text(found.high)})" if found.repetitions > 1 else ""
    return f"{number_text(found.value)}x{ends}"


def change_text(value: float, baseline: float) -> str:
    """Return the change from a baseline in percent, such as `-7 %`."""
    return f"{100 * (value / baseline - 1):+.0f} %"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def made_by(result: BenchResult) -> str:
    """Return how a result was made: machine, versions and command."""
    versions = ", ".join(f"{name} {result.versions[name]}" for name in ("sglang", "torch") if name in result.versions)
    found = f"{result.machine}{', ' if versions else ''}{versions}"
    return f"{found}, commit {result.revision or 'unknown'}: `{result.command}`"
