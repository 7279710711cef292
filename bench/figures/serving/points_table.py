"""A table of each serving system at each point, with the first system's ratio to each other one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sun_sglang.bench.figures.serving.numbers import NONE, made_by, number, ratio_text, spread_text, table
from sun_sglang.bench.serving.report.study import quantities as q
from sun_sglang.bench.serving.result import BenchResult, PointReport, read_result

# does not depend on where requests end, which matters where a window holds few of them
_ARRIVED = "arrived_token_throughput"
_SHOWN = (q.THROUGHPUT.metric, _ARRIVED, q.PER_DECODE_WORKER.metric, q.TPOT.metric)
_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "serving/smollm2_float32": "float32, 8 clients, Zipf 1.5",
        "serving/smollm2_bfloat16": "bfloat16, 8 clients, Zipf 1.5",
        "serving/smollm2_grid": "bfloat16, other loads (shorter runs: warm-up 10 s, window 30 s)",
    }
)


class PointsTable:
    """`serving_smollm2_table.md`: all systems at all points, real SGLang on SmolLM2-135M."""

    name = "serving_smollm2_table"
    needs = tuple(_TITLES)

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the tables as Markdown and return their file."""
        read = {name: read_result(results / f"{name}.json") for name in self.needs}
        lines = [
            "# SmolLM2-135M on two cores: SUN and its peers",
            "",
            "Medians over the repetitions (least to largest).",
        ]
        for name, result in read.items():
            lines += ["", f"## {_TITLES[name]}", "", *_points(result)]
        lines += ["", *(f"- {made_by(result)}" for result in read.values()), ""]
        file = folder / f"{self.name}.md"
        file.write_text("\n".join(lines), encoding="utf-8")
        return file


def _points(result: BenchResult) -> list[str]:
    header = [
        "Zipf",
        "clients",
        "system",
        "tokens/s",
        "arrived tokens/s",
        "per decode worker",
        "TPOT, ms",
        "TTFT p50, ms",
    ]
    header += ["SUN: tokens/s", "SUN: arrived tokens/s", "SUN: per decode worker", "SUN: TPOT"]
    rows = []
    for point in result.points:
        workload = result.settings_of(point).workload
        for system in point.systems:
            cells = [f"{workload.zipf:g}", str(workload.concurrency), system]
            cells += [spread_text(number(point, system, metric)) for metric in _SHOWN]
            cells.append(spread_text(number(point, system, q.TTFT.metric)))
            rows.append([*cells, *_ratios(point, system)])
    return table(header, rows)


def _ratios(point: PointReport, system: str) -> list[str]:
    """Return SUN's numbers by those of a system."""
    if system not in point.ratios:
        return [NONE] * len(_SHOWN)
    return [ratio_text(point.ratios[system].get(metric)) for metric in _SHOWN]
