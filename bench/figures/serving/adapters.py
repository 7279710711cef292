"""SUN with adapters, one multi-LoRA server and the plain base, over the number of tasks: a figure and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sun_sglang.bench.figures.serving.numbers import made_by, number, ratio_text, spread_text, table
from sun_sglang.bench.figures.svg_file import svg_panels
from sun_sglang.bench.serving.report.drawing.palette import INK, MUTED, look
from sun_sglang.bench.serving.report.study import quantities as q
from sun_sglang.bench.serving.result import BenchResult, PointReport, read_result

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "sun": "SUN: adapters in prefill only",
        "multi_lora": "one multi-LoRA server",
        "plain": "SUN's workers without adapters",
    }
)
_NEEDS = ("serving/adapters_8", "serving/adapters_32", "serving/adapters_128")
# neither depends on where requests end, which matters where a window holds few of them
_TOKENS, _GAP = "arrived_token_throughput", "inter_chunk_latency.avg"
_ROWS = ((_TOKENS, "tokens/s"), (_GAP, "ms per output token"), (q.TTFT.metric, "TTFT p50, ms"))


class AdaptersFigure:
    """`serving_adapters.svg`: medians over the repetitions, thin lines the least and the largest value."""

    name = "serving_adapters"
    needs: tuple[str, ...] = _NEEDS

    def draw(self, results: Path, folder: Path) -> Path:
        """Draw the panels as SVG and return the file."""
        read = _read(results)
        skews = sorted({result.settings_of(point).workload.zipf for result in read for point in result.points})
        file = folder / f"{self.name}.svg"
        with svg_panels(file, len(_ROWS), len(skews), (10, 6.2), sharex=True, sharey="row") as panels:
            for row, (metric, label) in zip(panels, _ROWS, strict=True):
                for axes, zipf in zip(row, skews, strict=True):
                    _draw_panel(axes, read, zipf, metric)
                row[0].set_ylabel(label, color=INK, fontsize=9)
            for axes, zipf in zip(panels[0], skews, strict=True):
                axes.set_title("uniform tasks" if zipf == 0 else f"Zipf {zipf:g}", fontsize=10, color=INK, loc="left")
            for axes in panels[-1]:
                axes.set_xlabel("tasks", color=INK, fontsize=9)
            panels[0][0].legend(fontsize=8, frameon=False, loc="best")
        return file


def _draw_panel(axes: Any, read: Sequence[BenchResult], zipf: float, metric: str) -> None:
    counts = range(len(read))
    for index, (system, title) in enumerate(TITLES.items()):
        found = [number(_point(result, zipf), system, metric) for result in read]
        assert all(value is not None for value in found), f"{system} has no valid run"
        middle = [value.value for value in found if value is not None]
        reach = [
            [value.value - value.min for value in found if value is not None],
            [value.max - value.value for value in found if value is not None],
        ]
        colour = (look(0).light, "#c2410c", "#9aa5b1")[index]
        axes.errorbar(counts, middle, yerr=reach, color=colour, marker="o", markersize=4, capsize=2, label=title)
    axes.set_xticks(counts, [str(_tasks(result)) for result in read])
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=MUTED, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


class AdaptersTable:
    """`serving_adapters_table.md`: every point, with SUN's ratio to the other systems."""

    name = "serving_adapters_table"
    needs: tuple[str, ...] = _NEEDS

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the table as Markdown and return its file."""
        read = _read(results)
        header = ["tasks", "Zipf", "system", "tokens/s", "ms per token", "TTFT p50, ms"]
        header += ["SUN: tokens/s", "SUN: ms per token", "SUN: TTFT"]
        rows = [
            [str(_tasks(result)), f"{result.settings_of(point).workload.zipf:g}", system, *_cells(point, system)]
            for result in read
            for point in result.points
            for system in TITLES
        ]
        lines = [
            "# Tasks that are LoRA adapters: SUN, one multi-LoRA server, and no adapters",
            "",
            "SmolLM2-135M-Instruct in bfloat16 on two cores. Medians over the repetitions (least to largest).",
            "",
            *table(header, rows),
            "",
            *(f"- {made_by(result)}" for result in read),
            "",
        ]
        file = folder / f"{self.name}.md"
        file.write_text("\n".join(lines), encoding="utf-8")
        return file


def _cells(point: PointReport, system: str) -> list[str]:
    metrics = [metric for metric, _ in _ROWS]
    ratios = point.ratios.get(system, {})
    return [spread_text(number(point, system, metric)) for metric in metrics] + [
        ratio_text(ratios.get(metric)) for metric in metrics
    ]


def _read(results: Path) -> list[BenchResult]:
    return [read_result(results / f"{name}.json") for name in _NEEDS]


def _point(result: BenchResult, zipf: float) -> PointReport:
    (found,) = [point for point in result.points if result.settings_of(point).workload.zipf == zipf]
    return found


def _tasks(result: BenchResult) -> int:
    system = next(iter(result.points[0].systems.values()))
    return len(system.runs[0].tasks)
