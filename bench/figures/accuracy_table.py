"""The accuracy table: mean and spread of the exact match over seeds, for each task and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType

from sun_sglang.bench.report import Report, read_report

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "base": "base",
        "full": "full fine-tuning",
        "naive_decoder": "naive: full fine-tune prefills, base decodes",
        "naive_prefill": "naive: base prefills, full fine-tune decodes",
        "sun": "SUN (prefill-only)",
        "prefillshare": "PrefillShare (decode-only, decode makes the first token)",
        "prefillshare_stock": "PrefillShare, first token from the base",
    }
)


class AccuracyTable:
    """`training_accuracy.md`."""

    name = "training_accuracy"
    needs: tuple[str, ...] = ("training_accuracy",)

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the table as Markdown and return its file."""
        file = folder / f"{self.name}.md"
        file.write_text(_render(read_report(results / f"{self.name}.json")), encoding="utf-8")
        return file


def chosen_rates(report: Report) -> dict[str, dict[str, float]]:
    """Return the learning rate with the least validation loss, by task and scheme."""
    losses: dict[str, dict[str, dict[float, float]]] = {}
    for run in report.select("validation_loss"):
        task, scheme, rate = str(run.case["task"]), str(run.case["scheme"]), float(run.case["learning_rate"])
        losses.setdefault(task, {}).setdefault(scheme, {})[rate] = run.values["validation_loss"]
    return {
        task: {scheme: min(found, key=found.__getitem__) for scheme, found in schemes.items()}
        for task, schemes in losses.items()
    }


def spread(percents: Sequence[float]) -> str:
    """Return the mean and the sample standard deviation, such as `97.3 ± 0.4`; one value has no deviation."""
    return f"{mean(percents):.1f}" + (f" ± {stdev(percents):.1f}" if len(percents) > 1 else "")


def _percents(report: Report, task: str, method: str) -> list[float]:
    """Return a method's exact match in percent, seed by seed."""
    runs = report.select("correct", task=task, method=method)
    return [100 * run.values["correct"] / run.values["total"] for run in runs]


def _average(report: Report, tasks: Sequence[str], method: str) -> float:
    """Return the mean over tasks of the mean over seeds, in percent."""
    return mean(mean(_percents(report, task, method)) for task in tasks)


def _render(report: Report) -> str:
    rates = chosen_rates(report)
    tasks = list(rates)
    seeds = ", ".join(f"{task}: {len(_percents(report, task, 'full'))} seeds" for task in tasks)
    lines = [
        "# Accuracy, small scale",
        "",
        f"Exact match in percent on {report.settings['held_out']} held-out questions a task, greedy: mean over "
        f"seeds of data and order (one base model; {seeds}), plus or minus the sample standard deviation.",
        "",
        f"| | {' | '.join(tasks)} | average | to full |",
        f"|{'---|' * (len(tasks) + 3)}",
    ]
    reference = _average(report, tasks, "full")
    for method, title in TITLES.items():
        cells = [spread(_percents(report, task, method)) for task in tasks]
        overall = _average(report, tasks, method)
        lines.append(f"| {title} | {' | '.join(cells)} | {overall:.1f} | {overall - reference:+.1f} |")
    lines += [
        "",
        "Learning rate, chosen by validation loss on the first seed:",
        "",
        f"| | {' | '.join(tasks)} |",
        f"|{'---|' * (len(tasks) + 1)}",
    ]
    for scheme in next(iter(rates.values())):
        lines.append(f"| {scheme} | {' | '.join(f'{rates[task][scheme]:g}' for task in tasks)} |")
    versions = ", ".join(f"{name} {report.versions[name]}" for name in ("torch", "transformers"))
    lines += [
        "",
        f"Tuning took {report.median('tuning_s', {})} s in all, the sum of its runs ({report.machine}, "
        f"{report.settings['threads']} thread(s) a run, {versions}).",
        f"Made by `{report.command}`.",
        "",
    ]
    return "\n".join(lines)
