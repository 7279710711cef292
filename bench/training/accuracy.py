"""Accuracy: Table 1 of the SUN and PrefillShare papers at small scale, seven ways to serve a tuned task.

    python -m sun_sglang.bench.training.accuracy

Tunes the demo's base model with several seeds and scores every method on held-out questions. Finished tuning runs stay
in `--work`: an interrupted benchmark continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from sun_sglang.bench.figures.accuracy_table import AccuracyTable
from sun_sglang.bench.report import RESULTS, Case, Run, new_report, write_report
from sun_sglang.bench.training.accuracy_runs import DEFAULT, TASKS, Setting, TuningRun, TuningRuns
from sun_sglang.bench.training.schemes import COMPARED
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.scheme import Side
from sun_sglang.evaluation.exact_match import evaluate
from sun_sglang.train.checkpoint import load_model


class Method(NamedTuple):
    """One way to serve a task.

    Attributes:
        prefill: scheme whose weights prefill; None: the base's weights.
        decode: scheme whose weights decode; None: the base's weights.
        first_token: the side that generates the first token.
    """

    prefill: str | None
    decode: str | None
    first_token: Side


UNITS = {
    "validation_loss": "1",
    "correct": "1",
    "total": "1",
    "percent": "%",
    "low": "%",
    "high": "%",
    "tuning_s": "s",
}
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


def evaluate_methods(
    tuning: TuningRuns, log: Callable[[str], None], *, jobs: int = 1, done_only: bool = False
) -> list[Run]:
    """Search learning rates, tune every seed, and score every method on the test questions.

    Args:
        tuning: the tuning runs.
        log: receives a line for each seed of a task.
        jobs: tuning runs at once.
        done_only: leave out a seed of a task whose tuning runs are not all done, instead of doing them.

    Returns:
        One run for each learning rate (its validation loss), one for each task, method and seed (its exact match), and
        one with the seconds of all tuning.
    """
    first, *others = tuning.setting.seeds
    tried = [(task, scheme, rate) for task in TASKS for scheme in COMPARED for rate in tuning.setting.tasks[task].rates]
    tuning.do([TuningRun(task, scheme, first, rate) for task, scheme, rate in tried], jobs)
    runs: list[Run] = []
    chosen: dict[str, dict[str, float]] = {task: {} for task in TASKS}
    for task, scheme in product(TASKS, COMPARED):
        chosen[task][scheme], losses = tuning.search(task, scheme)
        for rate, loss in losses.items():
            case: Case = {"task": task, "scheme": scheme, "learning_rate": rate}
            runs.append(Run(case=case, seed=first, values={"validation_loss": loss}))
    if not done_only:
        others_of = [(task, scheme, seed) for seed in others for task in TASKS for scheme in COMPARED]
        tuning.do([TuningRun(task, scheme, seed, chosen[task][scheme]) for task, scheme, seed in others_of], jobs)
    # seed by seed: a benchmark that is cut short has whole seeds
    for seed, task in product(tuning.setting.seeds, TASKS):
        wanted = [TuningRun(task, scheme, seed, rate) for scheme, rate in chosen[task].items()]
        if done_only and not all(tuning.done(run) for run in wanted):
            log(f"{task}, seed {seed}: not tuned yet, left out")
            continue
        scores = _score_seed(tuning, task, seed, chosen[task])
        for method, score in scores.items():
            runs.append(Run(case={"task": task, "method": method}, seed=seed, values=score))
        log(f"{task}, seed {seed}: " + ", ".join(f"{method} {score['percent']}" for method, score in scores.items()))
    return [*runs, Run(values={"tuning_s": round(tuning.seconds())})]


def _score_seed(
    tuning: TuningRuns, task: str, seed: int, rates: Mapping[str, float]
) -> dict[str, dict[str, int | float]]:
    """Return the exact match of every method on a task's test questions, by method."""
    models: dict[str | None, Any] = {None: load_model(tuning.base)}
    for scheme, rate in rates.items():
        run = TuningRun(task, scheme, seed, rate)
        tuning.loss(run)
        models[scheme] = tuning.weights(run)
    questions = tuning.examples(task, "test", tuning.setting.held_out, 0)
    end = tuning.tokenizer.eos_token_id
    return {
        name: asdict(evaluate(models[m.prefill], models[m.decode], questions, end, m.first_token))
        for name, m in METHODS.items()
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.training.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", type=Path, default=Path("configs/demo/models/base"), help="the base model")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"), help="weights and losses of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report and of the table")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--scale", type=float, default=1.0, help="training examples, as a multiple of the default")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    parser.add_argument("--jobs", type=int, default=1, help="tuning runs at once")
    parser.add_argument("--done-only", action="store_true", help="leave out seeds of a task that are not tuned yet")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tasks = {name: replace(how, examples=round(how.examples * arguments.scale)) for name, how in DEFAULT.items()}
    setting = Setting(tasks, seeds=tuple(range(arguments.seeds)))
    tuning = TuningRuns(arguments.base, arguments.work, setting, _log)
    runs = evaluate_methods(tuning, _log, jobs=arguments.jobs, done_only=arguments.done_only)
    settings = {"threads": torch.get_num_threads(), **asdict(setting), "base": weights_revision(arguments.base)}
    seeds = settings.pop("seeds")
    report = new_report("training_accuracy", _command(arguments), runs, UNITS, seeds=seeds, settings=settings)
    write_report(report, arguments.out / "training_accuracy.json")
    sys.stdout.write(AccuracyTable().draw(arguments.out, arguments.out).read_text(encoding="utf-8"))


def _command(arguments: argparse.Namespace) -> str:
    words = ["python -m sun_sglang.bench.training.accuracy"]
    words += [f"--seeds {arguments.seeds}", f"--scale {arguments.scale:g}", f"--jobs {arguments.jobs}"]
    return " ".join([*words, *(["--done-only"] if arguments.done_only else [])])


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
