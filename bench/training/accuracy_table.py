"""The accuracy table as text: mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

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


def average(report: Mapping[str, Any], method: str) -> float:
    """Mean over tasks of the mean over seeds, in percent."""
    return mean(mean(_percents(cells[method])) for cells in report["cells"].values())


def render(report: Mapping[str, Any]) -> str:
    """The table as Markdown, from what `bench.accuracy` wrote."""
    tasks, setting = list(report["cells"]), report["setting"]
    seeds = ", ".join(f"{task}: {len(report['cells'][task]['full'])} seeds" for task in tasks)
    lines = [
        "# Accuracy, small scale",
        "",
        f"Exact match in percent on {setting['held_out']} held-out questions a task, greedy: mean over "
        f"seeds of data and order (one base model; {seeds}), plus or minus the sample standard deviation.",
        "",
        f"| | {' | '.join(tasks)} | average | to full |",
        f"|{'---|' * (len(tasks) + 3)}",
    ]
    reference = average(report, "full")
    for method, title in TITLES.items():
        cells = [spread(_percents(report["cells"][task][method])) for task in tasks]
        overall = average(report, method)
        lines.append(f"| {title} | {' | '.join(cells)} | {overall:.1f} | {overall - reference:+.1f} |")
    lines += [
        "",
        "Learning rate, chosen by validation loss on the first seed:",
        "",
        f"| | {' | '.join(tasks)} |",
        f"|{'---|' * (len(tasks) + 1)}",
    ]
    for scheme in next(iter(report["rates"].values())):
        chosen = [f"{report['rates'][task][scheme]['chosen']:g}" for task in tasks]
        lines.append(f"| {scheme} | {' | '.join(chosen)} |")
    lines += [
        "",
        f"Tuning took {report['tuning_seconds']} s in all, the sum of its runs ({report['machine']}).",
        f"Made by `{report['command'].strip()}`.",
        "",
    ]
    return "\n".join(lines)


def spread(percents: Sequence[float]) -> str:
    """`97.3 ± 0.4`; one value alone has no spread."""
    return f"{mean(percents):.1f}" + (f" ± {stdev(percents):.1f}" if len(percents) > 1 else "")


def _percents(cells: Sequence[Mapping[str, Any]]) -> list[float]:
    return [100 * cell["correct"] / cell["total"] for cell in cells]
