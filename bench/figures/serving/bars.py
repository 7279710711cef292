"""The figure of the README: four ways to serve four tasks on the same cores, in three panels of bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sun_sglang.bench.figures.serving.numbers import number
from sun_sglang.bench.figures.svg_file import svg_panels
from sun_sglang.bench.serving.report.drawing.palette import INK, MUTED, look
from sun_sglang.bench.serving.report.study.quantities import PER_DECODE_WORKER, THROUGHPUT, TPOT, number_text
from sun_sglang.bench.serving.result import BenchResult, read_result

# by the name of the file that `sun bench --compare` was given
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "sun": "SUN: 4 prefill, 1 shared decode",
        "isolated": "isolated: 4 prefill, 4 decode",
        "plain": "4 plain servers",
        "lora": "1 plain server, 4 LoRA adapters",
    }
)


class _Panel(NamedTuple):
    metric: str
    title: str


_PANELS = (
    _Panel(THROUGHPUT.metric, "output tokens/s, higher is better"),
    _Panel(PER_DECODE_WORKER.metric, "... per worker that decodes"),
    _Panel(TPOT.metric, "ms per output token, lower is better"),
)


class ServingBars:
    """`serving_smollm2.svg`: bars are medians over the repetitions, thin lines the least and the largest value."""

    name = "serving_smollm2"
    needs: tuple[str, ...] = ("serving/smollm2_bfloat16",)

    def draw(self, results: Path, folder: Path) -> Path:
        """Draw the panels as SVG and return the file."""
        result = read_result(results / f"{self.needs[0]}.json")
        file = folder / f"{self.name}.svg"
        with svg_panels(file, 1, len(_PANELS), (10, 2.2), sharey=True) as panels:
            for axes, panel in zip(panels, _PANELS, strict=True):
                _draw_panel(axes, panel, result)
        return file


def _draw_panel(axes: Any, panel: _Panel, result: BenchResult) -> None:
    (point,) = result.points
    systems = [name for name in TITLES if name in point.systems]
    for row, name in enumerate(systems):
        found = number(point, name, panel.metric)
        assert found is not None, f"{name} has no valid run"
        reach = [[found.value - found.min], [found.max - found.value]]
        axes.barh(row, found.value, height=0.62, color=look(0).light if name == "sun" else "#9aa5b1")
        axes.errorbar(found.value, row, xerr=reach, color=INK, linewidth=1, capsize=2)
        axes.annotate(number_text(found.value), (found.max, row), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(systems)), [TITLES[name] for name in systems])
    axes.invert_yaxis()
    axes.set_title(panel.title, fontsize=10, color=INK, loc="left")
    axes.set_xlim(0, 1.22 * max(found.max for name in systems if (found := number(point, name, panel.metric))))
    axes.tick_params(axis="x", colors=MUTED, labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
