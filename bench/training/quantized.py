"""Accuracy with a quantised decoder: Table 3 of the SUN paper at small scale, with a control for the further training.

    python -m sun_sglang.bench.training.quantized

Rows: full fine-tuning and SUN in full precision (16/16), full fine-tuning with both sides quantised (4/4), SUN with a
quantised decoder as it is (16/4), re-tuned against that decoder (QSUN, 16/4), and re-tuned with the same budget against
the full-precision decoder, then quantised (the control, 16/4). Full fine-tuning and SUN each try two learning rates on
the first seed, and keep the one with the least validation loss; a re-tuning uses SUN's, as in the paper (appendix A.1).
Each finished part stays in `--work`: an interrupted benchmark continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from sun_sglang.bench.figures.quantized_table import DEMO
from sun_sglang.bench.report import RESULTS, Case, Run, new_report, write_report
from sun_sglang.bench.training.accuracy_runs import DEFAULT, Setting, TuningRun, TuningRuns
from sun_sglang.bench.training.grids import QUANTIZERS, Grid, grid_of
from sun_sglang.bench.training.quantized_cells import TUNED, Part, QuantizedCells, log_line
from sun_sglang.checkpoint.weights import weights_revision

NAME = "training_quantized"
UNITS = {
    "validation_loss": "1",
    "tuned_loss": "1",
    "correct": "1",
    "total": "1",
    "percent": "%",
    "low": "%",
    "high": "%",
    "tuning_s": "s",
}


def parts_of(setting: Setting) -> list[Part]:
    """Return the parts of the benchmark seed by seed, so that a benchmark that is cut short has whole seeds."""
    longest = sorted(setting.tasks, key=lambda task: setting.tasks[task].examples, reverse=True)
    return [Part(task, seed) for seed in setting.seeds for task in longest]


def searched_runs(setting: Setting) -> list[TuningRun]:
    """Return the tuning runs of the search over learning rates, on the first seed."""
    first = setting.seeds[0]
    return [
        TuningRun(task, scheme, first, rate)
        for task, how in setting.tasks.items()
        for scheme in TUNED
        for rate in how.rates
    ]


def _search_run(run: TuningRun, loss: float) -> Run:
    case: Case = {"task": run.task, "scheme": run.scheme, "learning_rate": run.rate}
    return Run(case=case, seed=run.seed, values={"validation_loss": loss})


def do_parts(cells: QuantizedCells, parts: Sequence[Part], jobs: int) -> None:
    """Do the parts that are not done, `jobs` at once, each in a process of its own.

    Args:
        cells: tunes and scores.
        parts: the parts.
        jobs: processes at once; 1: in this process.
    """
    if jobs == 1:
        for part in parts:
            cells.do(part)
        return
    # spawned: torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_do, [(cells, part, torch.get_num_threads()) for part in parts]):
            pass


def _do(what: tuple[QuantizedCells, Part, int]) -> None:
    cells, part, threads = what
    torch.set_num_threads(threads)
    cells.do(part)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.training.quantized",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", type=Path, default=Path("configs/demo/models/base"), help="the base model")
    parser.add_argument("--work", type=Path, default=Path("build/quantized"), help="results of finished parts")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report and of the table")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--scale", type=float, default=1.0, help="training examples, as a multiple of the default")
    parser.add_argument("--questions", type=int, default=500, help="test questions a task")
    parser.add_argument(
        "--grids",
        type=grid_of,
        nargs="+",
        default=[Grid("rtn", 4, 128), Grid("rtn", 3, 128)],
        metavar="[QUANTIZER:]BITS:GROUP",
        help=f"grids of the quantised weights (4:128 3:128); quantizers: {', '.join(QUANTIZERS)}",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a process")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--done-only", action="store_true", help="report the parts that are done, and do no other")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tasks = {name: replace(how, examples=round(how.examples * arguments.scale)) for name, how in DEFAULT.items()}
    setting = Setting(tasks, seeds=tuple(range(arguments.seeds)))
    tuning = TuningRuns(arguments.base, arguments.work / "tuned", setting, log_line)
    tried = searched_runs(setting)
    if arguments.done_only and not all(map(tuning.done, tried)):
        parser.error("--done-only: the learning rates are not all tried yet; run without it")
    tuning.do(tried, arguments.jobs)
    rates = {task: {scheme: tuning.search(task, scheme)[0] for scheme in TUNED} for task in setting.tasks}
    cells = QuantizedCells(tuning, arguments.work, rates, tuple(arguments.grids), arguments.questions)
    parts = parts_of(setting)
    if arguments.done_only:
        parts = [part for part in parts if cells.done(part)]
    do_parts(cells, parts, arguments.jobs)
    runs = [_search_run(run, tuning.loss(run)) for run in tried]
    runs += [run for part in parts for run in cells.runs(part)]
    settings = {
        "threads": arguments.threads,
        **asdict(setting),
        "rates": rates,
        "grids": [grid._asdict() for grid in arguments.grids],
        "questions": arguments.questions,
        "base": weights_revision(arguments.base),
        "decoders": {name: weights_revision(model) for name, model in cells.decoders.items()},
    }
    seeds = settings.pop("seeds")
    total = Run(values={"tuning_s": round(cells.seconds(parts, tried))})
    report = new_report(NAME, _command(arguments), [*runs, total], UNITS, seeds=seeds, settings=settings)
    write_report(report, arguments.out / f"{NAME}.json")
    sys.stdout.write(DEMO.draw(arguments.out, arguments.out).read_text(encoding="utf-8"))


def _command(arguments: argparse.Namespace) -> str:
    grids = " ".join(f"{g.quantizer}:{g.bits}:{g.group}" for g in arguments.grids)
    words = ["python -m sun_sglang.bench.training.quantized", f"--seeds {arguments.seeds}"]
    words += [f"--scale {arguments.scale:g}", f"--questions {arguments.questions}"]
    words += [f"--grids {grids}", f"--jobs {arguments.jobs}"]
    return " ".join([*words, *(["--done-only"] if arguments.done_only else [])])


if __name__ == "__main__":
    main()
