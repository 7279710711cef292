"""Collect the scores of the English tasks into one report.

    python -m sun_sglang.bench.smollm2.english.study

Reads what `score.py` left in `build/english/scores` and what `sun train` recorded, and computes nothing else. For each
task it also counts the questions on which two ways differ: with the same questions, that resolves a smaller
difference than two intervals do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sun_sglang.bench.provenance import as_json
from sun_sglang.bench.report import RESULTS, Report, Run, new_report, write_report
from sun_sglang.bench.smollm2.english.score import BUILT, SCORES, Way, ways
from sun_sglang.bench.smollm2.english.scorers import SCORERS

NAME = "smollm2_english_study"
UNITS = {
    "correct": "1",
    "total": "1",
    "percent": "%",
    "low": "%",
    "high": "%",
    "validation_loss": "nats a token",
    "first_word": "%",
    "known_label": "%",
}
# their answers are labels of a fixed set, which the test questions hold whole
_LABELS = ("intent", "language", "topic")
_NUMBERS = ("correct", "total", "percent", "low", "high")


def collect(built: Path = BUILT, scores: Path = SCORES) -> list[Run]:
    """Return a run for each scored way of each task, and one for each two ways of a task with the same questions."""
    runs = []
    for task in SCORERS:
        found = {
            str(file.relative_to(scores / task).with_suffix("")): json.loads(file.read_text(encoding="utf-8"))
            for file in sorted((scores / task).rglob("*.json"))
        }
        for name, result in found.items():
            way = ways(task).get(name, Way(name, None))
            trained = way.prefill and _trained(built / way.prefill)
            values = {key: result[key] for key in _NUMBERS}
            if task in _LABELS:
                values |= label_shares(result["rows"])
            details: dict[str, object] = {}
            if trained:
                values["validation_loss"] = trained["loss"]
                details = {key: trained[key] for key in ("scheme", "rank", "learning_rate", "examples")}
            seed = trained["seed"] if trained else None
            runs.append(Run(case={"task": task, "way": name}, seed=seed, values=values, details=as_json(details)))
        for first, second in (("lora", "sun"), ("sun", "naive")):
            if first in found and second in found:
                right = [[row["right"] for row in found[name]["rows"]] for name in (first, second)]
                only = {
                    f"only_{first}": sum(a and not b for a, b in zip(*right, strict=True)),
                    f"only_{second}": sum(b and not a for a, b in zip(*right, strict=True)),
                }
                runs.append(Run(case={"task": task, "compared": f"{first}, {second}"}, details=as_json(only)))
    return runs


def label_shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return in how many answers, in percent, the first word is right, and how many are a label at all.

    In SUN the prefill module makes the first token and the untuned decoder the others: the first share shows what the
    prefill module knows, the second whether the decoder writes it in the task's words.
    """
    labels = {row["expected"] for row in rows}
    first = sum(row["answer"].split()[:1] == row["expected"].split()[:1] for row in rows)
    known = sum(row["answer"].strip() in labels for row in rows)
    return {"first_word": round(100 * first / len(rows), 1), "known_label": round(100 * known / len(rows), 1)}


def _trained(output: Path) -> dict[str, Any]:
    """Return scheme, rank, rate, seed, examples and validation loss of a training."""
    record = json.loads((output / "adapter" / "sun.json").read_text(encoding="utf-8"))
    losses = json.loads((output / "training" / "search.json").read_text(encoding="utf-8"))["losses"]
    recipe = record["recipe"]
    steps = recipe["max_steps"]
    return {
        "scheme": record["scheme"],
        "rank": recipe["lora"]["rank"],
        "learning_rate": record["learning_rate"],
        "seed": record["seed"],
        "examples": "one epoch" if steps is None else steps * recipe["global_batch"],
        "loss": round(min(losses.values()), 5),
    }


def table(report: Report) -> Table:
    """Return a table with a row for each scored way."""
    shown = Table("task", "way", "right, %", "95 % interval", "validation loss")
    for run in report.select("percent"):
        v = run.values
        loss = f"{v['validation_loss']:.3f}" if "validation_loss" in v else ""
        shown.add_row(
            str(run.case["task"]), str(run.case["way"]), f"{v['percent']}", f"{v['low']} to {v['high']}", loss
        )
    return shown


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.english.study", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report")
    options = parser.parse_args(arguments)
    runs = collect()
    if not runs:
        sys.stderr.write(f"study: {SCORES}: no scores; make them first: python -m {__package__}.score TASK\n")
        return 1
    report = new_report(NAME, f"python -m {__package__}.study", runs, UNITS)
    write_report(report, options.out / f"{NAME}.json")
    Console(highlight=False).print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
