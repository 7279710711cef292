"""The table of quantised decoders: exact match of full fine-tuning, SUN, QSUN and its control on each grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any, NamedTuple

from sun_sglang.bench.figures.accuracy_table import spread
from sun_sglang.bench.report import Report, read_report

FULL_PRECISION = "none"


class Row(NamedTuple):
    """One row of a grid's table.

    Attributes:
        title: what serves the task.
        prefill: bits of the prefill module; None: those of the grid.
        decode: bits of the decode module; None: those of the grid.
    """

    title: str
    prefill: int | None
    decode: int | None


ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "full": Row("full fine-tuning", 16, 16),
        "full_quantized": Row("full fine-tuning, then quantised", None, None),
        "sun": Row("SUN", 16, 16),
        "sun_retuned": Row("SUN, tuned for a second epoch", 16, 16),
        "sun_quantized": Row("SUN, its decoder then quantised", 16, None),
        "control": Row("SUN, tuned for a second epoch, its decoder then quantised (control)", 16, None),
        "qsun": Row("QSUN: SUN, re-tuned for an epoch against the quantised decoder", 16, None),
    }
)


class QuantizedTable:
    """`training_quantized.md`."""

    name = "training_quantized"
    needs: tuple[str, ...] = ("training_quantized",)

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the tables as Markdown and return their file."""
        file = folder / f"{self.name}.md"
        file.write_text(_render(read_report(results / f"{self.name}.json")), encoding="utf-8")
        return file


def _render(report: Report) -> str:
    settings: Any = report.settings
    scored = {run.case["task"] for run in report.select("correct")}
    tasks = [task for task in settings["tasks"] if task in scored]
    seeds = _seeds(report, tasks)
    examples = ", ".join(f"{task} {settings['tasks'][task]['examples']:,}" for task in tasks)
    lines = [
        "# Accuracy with a quantised decoder, small scale",
        "",
        f"Exact match in percent on {settings['questions']} held-out questions a task, greedy: mean over {len(seeds)} "
        "seeds of data and order (one base model of 0.8M parameters), plus or minus the sample standard deviation. "
        "`to SUN`: mean and deviation over seeds of the difference to SUN's average. A column of bits has those of the "
        "prefill and of the decode module's linear layers; embeddings, norms and `lm_head` keep 16.",
        "",
        f"Each tuning is one epoch over a task's examples ({examples}), {settings['batch']} a step, at the learning "
        "rate that the [accuracy benchmark](training_accuracy.md) chose.",
        *_harms(report, tasks, seeds),
    ]
    for grid in settings["grids"]:
        lines += _section(report, grid, tasks, seeds)
    versions = ", ".join(f"{name} {report.versions[name]}" for name in ("torch", "transformers"))
    lines += [
        "",
        f"Tuning took {report.median('tuning_s', {}):,} s in all, the sum of its runs ({report.machine}, "
        f"{settings['threads']} thread(s) a run, {versions}).",
        f"Made by `{report.command}`.",
        "",
    ]
    return "\n".join(lines)


def _section(report: Report, grid: Mapping[str, Any], tasks: Sequence[str], seeds: Sequence[int]) -> list[str]:
    bits, name = grid["bits"], _name(grid)
    lines = [
        "",
        f"## {bits} bits, groups of {grid['group']}, {_TITLES.get(grid['quantizer'], grid['quantizer'])}",
        "",
        f"| | bits | {' | '.join(tasks)} | average | to SUN |",
        f"|{'---|' * (len(tasks) + 4)}",
    ]
    sun = _averages(report, "sun", FULL_PRECISION, tasks, seeds)
    for method, row in ROWS.items():
        of = FULL_PRECISION if row.decode else name
        cells = [spread([_percent(report, method, of, task, seed) for seed in seeds]) for task in tasks]
        averages = _averages(report, method, of, tasks, seeds)
        distance = "" if method == "sun" else _signed([a - b for a, b in zip(averages, sun, strict=True)])
        width = f"{row.prefill or bits}/{row.decode or bits}"
        lines.append(f"| {row.title} | {width} | {' | '.join(cells)} | {spread(averages)} | {distance} |")
    return lines


_TITLES: Mapping[str, str] = MappingProxyType({"rtn": "rounded to nearest", "awq": "AWQ", "gptq": "GPTQ"})
_HARM = 1.0


def _harms(report: Report, tasks: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Return a sentence for each grid: what quantising the decoder costs without re-tuning, by task."""
    lines = ["", "Points that SUN loses where its decoder is quantised and nothing is re-tuned:", ""]
    grids: Any = report.settings["grids"]
    for grid in grids:
        name = _name(grid)
        lost = {
            task: mean(
                _percent(report, "sun", FULL_PRECISION, task, seed)
                - _percent(report, "sun_quantized", name, task, seed)
                for seed in seeds
            )
            for task in tasks
        }
        harmed = [task for task in tasks if lost[task] >= _HARM]
        verdict = "no task loses a point: this grid does no harm at this size" if not harmed else ""
        shown = ", ".join(f"{task} {lost[task]:.1f}" for task in tasks)
        lines.append(f"- `{name}`: {shown}" + (f"; {verdict}." if verdict else "."))
    return lines


def _name(grid: Mapping[str, Any]) -> str:
    return f"{grid['quantizer']}-{grid['bits']}-{grid['group']}"


def _seeds(report: Report, tasks: Sequence[str]) -> list[int]:
    """Return the seeds of which every task is scored."""
    found = [{run.seed for run in report.select("correct", task=task)} for task in tasks]
    return sorted(seed for seed in set.intersection(*found) if seed is not None)


def _percent(report: Report, method: str, grid: str, task: str, seed: int) -> float:
    (run,) = (r for r in report.select("correct", method=method, grid=grid, task=task) if r.seed == seed)
    return 100 * run.values["correct"] / run.values["total"]


def _averages(report: Report, method: str, grid: str, tasks: Sequence[str], seeds: Sequence[int]) -> list[float]:
    """Return the mean over tasks, seed by seed."""
    return [mean(_percent(report, method, grid, task, seed) for task in tasks) for seed in seeds]


def _signed(points: Sequence[float]) -> str:
    text = spread(points)
    return text if text.startswith("-") else f"+{text}"
