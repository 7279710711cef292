"""Accuracy with a quantised decoder: Table 3 of the SUN paper at small scale, with a control for the further training.

    python -m sun_sglang.bench.training.quantized

Rows: full fine-tuning and SUN in full precision (16/16), full fine-tuning with both sides quantised (4/4), SUN with a
quantised decoder as it is (16/4), re-tuned against that decoder (QSUN, 16/4), and re-tuned with the same budget against
the full-precision decoder, then quantised (the control, 16/4). Every tuning uses the learning rate that the accuracy
benchmark chose. Each finished part stays in `--work`: an interrupted benchmark continues where it stopped.
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

from sun_sglang.bench.figures.accuracy_table import chosen_rates
from sun_sglang.bench.figures.quantized_table import DEMO
from sun_sglang.bench.report import RESULTS, Run, new_report, read_report, write_report
from sun_sglang.bench.training.accuracy_runs import DEFAULT, Setting
from sun_sglang.bench.training.grids import QUANTIZERS, Grid, grid_of
from sun_sglang.bench.training.quantized_cells import Part, QuantizedCells
from sun_sglang.checkpoint.weights import weights_revision

NAME = "training_quantized"
UNITS = {
    "validation_loss": "1",
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
    parser.add_argument(
        "--rates", type=Path, default=RESULTS / "training_accuracy.json", help="the accuracy benchmark's report"
    )
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
    rates = chosen_rates(read_report(arguments.rates))
    cells = QuantizedCells(arguments.base, arguments.work, setting, rates, tuple(arguments.grids), arguments.questions)
    parts = parts_of(setting)
    if arguments.done_only:
        parts = [part for part in parts if cells.done(part)]
    do_parts(cells, parts, arguments.jobs)
    runs = [run for part in parts for run in cells.runs(part)]
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
    total = Run(values={"tuning_s": round(sum(cells.seconds(part) for part in parts))})
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
