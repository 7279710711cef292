"""Figures 3, 4 and 5 of the SUN paper as tables: emulated workers, the paper's numbers beside them.

The paper prints few of the numbers of its figures; the table has those of its text (sections 4.3 and 4.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sun_sglang.bench.figures.serving.numbers import NONE, change_text, made_by, number, spread_text, table
from sun_sglang.bench.serving.report.study import quantities as q
from sun_sglang.bench.serving.result import BenchResult, PointReport, read_result

_BASELINE = "isolated"
TITLES: Mapping[str, str] = MappingProxyType(
    {
        _BASELINE: "4x(1P/1D)",
        "sun-4d": "SUN 4P/4D",
        "sun-3d": "SUN 4P/3D",
        "sun-2d": "SUN 4P/2D",
        "sun-1d": "SUN 4P/1D",
    }
)
# by output length, skew and system: tokens/s for each decode worker, and the change of interactivity
PAPER: Mapping[tuple[int, float, str], tuple[str, str]] = MappingProxyType(
    {
        (256, 0.0, _BASELINE): ("935", ""),
        (256, 0.0, "sun-3d"): ("1,245", "-7 %"),
        (256, 0.0, "sun-2d"): ("1,858", "-19 %"),
        (256, 0.0, "sun-1d"): ("3,641", "-48 %"),
        (256, 1.5, "sun-2d"): ("", "within 10 %"),
    }
)


class DecodeConsolidation:
    """`sun_figure_3.md`: throughput and interactivity with 4, 3, 2 and 1 shared decode workers."""

    name = "sun_figure_3"
    needs = tuple(f"serving/sun_figure_3_osl{length}" for length in (256, 1024, 2048))

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the tables as Markdown and return their file."""
        read = [read_result(results / f"{name}.json") for name in self.needs]
        lines = ["# SUN, figure 3: fewer shared decode workers, emulated", ""]
        for result in read:
            for point in result.points:
                lines += [*_consolidation(result, point), ""]
        return _write(folder / f"{self.name}.md", lines, read)


class Skew:
    """`sun_figure_4.md`: throughput, interactivity and achieved rate (figure 5) over the skew of the tasks."""

    name = "sun_figure_4"
    needs = tuple(f"serving/sun_figure_4_rate{rate}" for rate in (1, 2))

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the tables as Markdown and return their file."""
        read = [read_result(results / f"{name}.json") for name in self.needs]
        lines = ["# SUN, figures 4 and 5: skew of the tasks, emulated", ""]
        for result in read:
            lines += [*_skew(result), ""]
        return _write(folder / f"{self.name}.md", lines, read)


def _consolidation(result: BenchResult, point: PointReport) -> list[str]:
    workload = result.settings_of(point).workload
    baseline = number(point, _BASELINE, q.INTERACTIVITY.metric)
    rows = []
    for system, title in TITLES.items():
        tokens, change = PAPER.get((int(workload.osl), workload.zipf, system), ("", ""))
        speed = number(point, system, q.INTERACTIVITY.metric)
        ours = NONE if system == _BASELINE else change_text(speed, baseline)
        rows.append(
            [
                title,
                spread_text(number(point, system, q.THROUGHPUT.metric)),
                spread_text(number(point, system, q.PER_DECODE_WORKER.metric)),
                tokens,
                spread_text(number(point, system, q.TPOT.metric)),
                ours,
                change,
                spread_text(number(point, system, q.TTFT.metric)),
                _share(point, system),
            ]
        )
    header = [
        "",
        "tokens/s",
        "per decode worker",
        "paper",
        "TPOT, ms",
        "interactivity",
        "paper",
        "TTFT p50, ms",
        "achieved",
    ]
    return [f"## {_load(result)}, Zipf {workload.zipf:g}", "", *table(header, rows)]


def _skew(result: BenchResult) -> list[str]:
    systems = [system.name for system in result.systems]
    uniform = result.points[0]
    header = ["Zipf"]
    for system in systems:
        title = TITLES[system]
        header += [f"{title}: tokens/s", "to Zipf 0", "interactivity", "achieved"]
    rows = []
    for point in result.points:
        row = [f"{result.settings_of(point).workload.zipf:g}"]
        for system in systems:
            made, first = number(point, system, q.THROUGHPUT.metric), number(uniform, system, q.THROUGHPUT.metric)
            row += [
                spread_text(made),
                change_text(made, first),
                spread_text(number(point, system, q.INTERACTIVITY.metric)),
                _share(point, system),
            ]
        rows.append(row)
    return [f"## {_load(result)}", "", *table(header, rows), "", *_at_most_skew(result)]


def _at_most_skew(result: BenchResult) -> list[str]:
    """Return SUN against the baseline at the largest skew, and the paper's numbers for the rate that it states."""
    point = result.points[-1]
    throughput, interactivity = (
        change_text(number(point, "sun-4d", metric), number(point, _BASELINE, metric))
        for metric in (q.THROUGHPUT.metric, q.INTERACTIVITY.metric)
    )
    text = (
        f"At Zipf {result.settings_of(point).workload.zipf:g}, SUN to the baseline: throughput {throughput}, "
        f"interactivity {interactivity}"
    )
    paper = "; the paper: +29.2 % and +44.1 %, and -19.0 % for the baseline's throughput to Zipf 0"
    return [text + (paper if result.settings.workload.request_rate == 2 else "") + "."]


def _share(point: PointReport, system: str) -> str:
    found = number(point, system, q.ACHIEVED.metric)
    return NONE if found is None else f"{100 * found.value:.0f} %"


def _load(result: BenchResult) -> str:
    workload = result.settings.workload
    return f"OSL {workload.osl}, {workload.request_rate:g} requests/s, ISL {workload.isl}"


def _write(file: Path, lines: Sequence[str], results: Sequence[BenchResult]) -> Path:
    file.write_text("\n".join([*lines, *(f"- {made_by(result)}" for result in results), ""]), encoding="utf-8")
    return file
