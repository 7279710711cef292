"""The sharing figure: accuracy against the share of the prompt's KV that the other module made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from types import MappingProxyType

from sun_sglang.bench.figures.svg_file import svg_panels
from sun_sglang.bench.report import Report, read_report

# by the module that decodes: `base`, or the task's own
TITLES: Mapping[str, str] = MappingProxyType(
    {"base": "the base decodes (SUN)", "task": "the task's module decodes (PrefillShare)"}
)
AXES = ("layers", "positions")
COLOURS: Mapping[str, str] = MappingProxyType({"naive": "tab:red", "tuned": "tab:blue"})


class SharingFigure:
    """`training_sharing.svg`: a panel for each decoder and axis; thin lines for tasks, a thick one for the mean."""

    name = "training_sharing"
    needs: tuple[str, ...] = ("training_sharing",)

    def draw(self, results: Path, folder: Path) -> Path:
        """Draw the panels as SVG and return the file."""
        report = read_report(results / f"{self.name}.json")
        file = folder / f"{self.name}.svg"
        with svg_panels(file, 2, 2, (9, 6.5), sharex=True, sharey=True) as panels:
            for row, (decodes, title) in enumerate(TITLES.items()):
                for column, axis in enumerate(AXES):
                    panel = panels[row][column]
                    for tuning, colour in COLOURS.items():
                        lines = _lines(report, decodes, axis, tuning)
                        for line in lines.values():
                            panel.plot(
                                [100 * s for s in line], list(line.values()), color=colour, alpha=0.3, linewidth=1
                            )
                        shares = list(next(iter(lines.values())))
                        means = [mean(line[share] for line in lines.values()) for share in shares]
                        panel.plot([100 * s for s in shares], means, color=colour, marker="o", label=tuning)
                    panel.set_title(f"{title}, by {axis}", fontsize=10)
                    panel.set_xlabel(f"{axis} whose KV the other module made, %")
                    panel.set_ylabel("exact match, %")
                    panel.legend()
        return file


def _lines(report: Report, decodes: str, axis: str, tuning: str) -> dict[str, dict[float, float]]:
    """Return the percent of right answers by task and share."""
    lines: dict[str, dict[float, float]] = {}
    for run in report.select("percent", decodes=decodes, shared=axis, tuning=tuning):
        lines.setdefault(str(run.case["task"]), {})[float(run.case["share"])] = run.values["percent"]
    return lines
