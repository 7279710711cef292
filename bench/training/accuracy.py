"""Table 1 of the SUN and PrefillShare papers at small scale: five ways to serve a tuned task, several seeds.

    python -m sun_sglang.bench.training.accuracy

Starts from the demo's base model. Runs that are done are kept in `--work`, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import transformers

from sun_sglang.bench.training.accuracy_runs import DEFAULT, SCHEMES, TASKS, Run, Runs, Setting
from sun_sglang.bench.training.accuracy_table import render
from sun_sglang.checkpoint.identity import weights_revision
from sun_sglang.evaluation.exact_match import evaluate
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.objective.two_module import FirstToken, Scheme


class Method(NamedTuple):
    """One way to serve a task: whose weights prefill, whose decode (None: the base's), who makes the first token."""

    prefill: Scheme | None
    decode: Scheme | None
    first_token: FirstToken


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "base": Method(None, None, "prefill"),
        "full": Method("full", "full", "prefill"),
        "naive_decoder": Method("full", None, "prefill"),
        "naive_prefill": Method(None, "full", "decode"),
        "sun": Method("prefill_only", None, "prefill"),
        "prefillshare": Method(None, "decode_only", "decode"),
        "prefillshare_stock": Method(None, "decode_only", "prefill"),
    }
)


def measure(runs: Runs, say: Any, *, jobs: int = 1, done_only: bool = False) -> dict[str, Any]:
    """Search rates, tune every seed, and measure every method on the test questions.

    `jobs` runs at once. `done_only` leaves out a task's seed whose runs are not all there, rather than do them.

    Returns:
        `rates`: per task and scheme the rate that was chosen and all validation losses; `cells`: per task and method
        one `ExactMatch` a seed.
    """
    first, *others = runs.setting.seeds
    tried = [(task, scheme, rate) for task in TASKS for scheme in SCHEMES for rate in runs.setting.tasks[task].rates]
    runs.do([Run(task, scheme, first, rate) for task, scheme, rate in tried], jobs)
    rates: dict[str, Any] = {}
    for task in TASKS:
        rates[task] = {}
        for scheme in SCHEMES:
            best, losses = runs.search(task, scheme)
            rates[task][scheme] = {"chosen": best, "validation_loss": {f"{r:g}": loss for r, loss in losses.items()}}
    if not done_only:
        chosen = [(task, scheme, rates[task][scheme]["chosen"]) for task in TASKS for scheme in SCHEMES]
        runs.do([Run(task, scheme, seed, rate) for seed in others for task, scheme, rate in chosen], jobs)
    cells: dict[str, dict[str, list[Any]]] = {task: {method: [] for method in METHODS} for task in TASKS}
    # seed by seed, so that a run that is cut short has whole seeds
    for seed in runs.setting.seeds:
        for task in TASKS:
            wanted = [Run(task, scheme, seed, found["chosen"]) for scheme, found in rates[task].items()]
            if done_only and not all(runs.done(run) for run in wanted):
                say(f"{task}, seed {seed}: not tuned yet, left out")
                continue
            for method, result in _of_seed(runs, task, seed, rates[task]).items():
                cells[task][method].append(result)
            say(f"{task}, seed {seed}: " + ", ".join(f"{m} {c[-1]['percent']}" for m, c in cells[task].items()))
    return {"rates": rates, "cells": cells}


def _of_seed(runs: Runs, task: str, seed: int, rates: Mapping[str, Any]) -> dict[str, Any]:
    models: dict[Scheme | None, Any] = {None: load_model(runs.base)}
    for scheme, found in rates.items():
        run = Run(task, scheme, seed, found["chosen"])  # type: ignore[arg-type] # the keys are schemes
        runs.loss(run)
        models[run.scheme] = runs.weights(run)
    questions = runs.examples(task, "test", runs.setting.held_out, 0)
    end = runs.tokenizer.eos_token_id
    return {
        name: asdict(evaluate(models[m.prefill], models[m.decode], questions, end, m.first_token))
        for name, m in METHODS.items()
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.training.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", type=Path, default=Path("configs/demo/models/base"))
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"), help="weights and losses of the runs")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="where accuracy.json and .md go")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="training examples, as a multiple of the default's")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--done-only", action="store_true", help="leave out seeds of a task that are not tuned yet")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tasks = {name: replace(how, examples=round(how.examples * arguments.scale)) for name, how in DEFAULT.items()}
    setting = Setting(tasks, seeds=tuple(range(arguments.seeds)))
    runs = Runs(arguments.base, arguments.work, setting, _say)
    measured = measure(runs, _say, jobs=arguments.jobs, done_only=arguments.done_only)
    report = {
        "command": "python -m sun_sglang.bench.training.accuracy " + " ".join(_command(arguments)),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores, "
        f"torch {torch.__version__}, transformers {transformers.__version__}",
        "tuning_seconds": round(runs.seconds()),
        "base": weights_revision(arguments.base),
        "setting": asdict(setting),
        **measured,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "accuracy.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "accuracy.md").write_text(render(report), encoding="utf-8")
    sys.stdout.write(render(report))


def _command(arguments: argparse.Namespace) -> list[str]:
    return [
        f"--seeds {arguments.seeds}",
        f"--scale {arguments.scale:g}",
        f"--jobs {arguments.jobs}",
        *(["--done-only"] if arguments.done_only else []),
    ]


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
