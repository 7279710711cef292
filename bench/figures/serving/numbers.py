"""Numbers of a result as text, and a Markdown table of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sun_sglang.bench.load.metrics.interval import Interval
from sun_sglang.bench.load.metrics.repeated import Repeated
from sun_sglang.bench.serving.report.study import quantities as q
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
        return q.number_text(found.value)
    return f"{q.number_text(found.value)} ({q.number_text(found.min)} to {q.number_text(found.max)})"


def ratio_text(found: Interval | None) -> str:
    """Return a ratio with its interval, such as `2.1x (2.0 to 2.3)`; one repetition has no interval."""
    if found is None:
        return NONE
    ends = q.ratio_interval_text(found)
    return f"{q.ratio_text(found)} ({ends})" if ends else q.ratio_text(found)


def change_text(found: Interval | None, baseline: Interval | None) -> str:
    """Return the change from a baseline in percent, such as `-7 %`."""
    if found is None or baseline is None:
        return NONE
    return f"{100 * (found.value / baseline.value - 1):+.0f} %"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def made_by(result: BenchResult) -> str:
    """Return how a result was made: machine, versions and command."""
    versions = ", ".join(f"{name} {result.versions[name]}" for name in ("sglang", "torch") if name in result.versions)
    found = f"{result.machine}{', ' if versions else ''}{versions}"
    return f"{found}, commit {result.revision or 'unknown'}: `{result.command}`"
