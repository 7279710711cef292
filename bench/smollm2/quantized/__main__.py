"""Accuracy of SmolLM2-135M with a 4-bit shared decoder: Table 3 of the SUN paper on a real pre-trained model.

    python -m sun_sglang.bench.smollm2.quantized

Rows: full fine-tuning and SUN in 16 bits (16/16), full fine-tuning with both sides quantised (4/4), SUN with a
quantised decoder as it is (16/4), re-tuned against that decoder (QSUN, 16/4), and re-tuned with the same budget against
the decoder in 16 bits, then quantised (the control, 16/4). Each finished part stays in `--work`: an interrupted
benchmark continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sun_sglang.bench.figures.quantized_table import SMOLLM2
from sun_sglang.bench.provenance import as_json
from sun_sglang.bench.report import RESULTS, Case, Run, new_report, write_report
from sun_sglang.bench.smollm2 import model
from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.quantized.recipes import EXAMPLES, Setting, Tuning
from sun_sglang.bench.smollm2.quantized.rows import Module, cells_of, pair_of, tunings_of
from sun_sglang.bench.smollm2.quantized.scores import Scores
from sun_sglang.bench.smollm2.quantized.tunings import Tunings
from sun_sglang.bench.training.grids import Grid, grid_of
from sun_sglang.bench.training.quantized_cells import Cell
from sun_sglang.bench.training.stored import stored_folder
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.errors import UserError
from sun_sglang.train.checkpoint import load_model, load_tokenizer, save_model

UNITS = {
    "validation_loss": "nats a token",
    "cpu_s": "s",
    "correct": "1",
    "total": "1",
    "percent": "%",
    "low": "%",
    "high": "%",
}


def measure(
    base: Path, work: Path, setting: Setting, grids: Sequence[Grid], jobs: int, threads: int, *, full: bool = True
) -> list[Run]:
    """Tune and score what is not done, and return all of it.

    Args:
        base: the base in 16 bits.
        work: folder of finished parts.
        setting: the size of the experiment.
        grids: the grids of quantised weights.
        jobs: tunings at once.
        threads: CPU threads of each.
        full: whether full fine-tuning is among the rows.

    Raises:
        UserError: a tuning or a quantisation failed.
    """
    tunings = Tunings(base, grids, work, setting, threads, _say)
    scores = Scores(tunings, work / "scores", setting, _say)
    cells = cells_of((grid.name for grid in grids), full=full)
    pairs = {(task, cell): pair_of(cell, task, setting.seed) for cell in cells for task in setting.examples}
    stages = tunings_of(pairs.values())
    for grid in grids:
        # before the tunings, several of which use it at once
        tunings.directory(Module(grid=grid.name))
    for stage in stages:
        tunings.do_all(stage, jobs)
    scored = {key: scores.score(_name(*key), key[0], pair) for key, pair in pairs.items()}
    tuned = [_tuned(tuning, tunings.result(tuning)) for stage in stages for tuning in stage]
    return [*(_scored(*key, score, setting.seed) for key, score in scored.items()), *tuned]


def _name(task: str, cell: Cell) -> str:
    return f"{task}-{cell.method}-{cell.grid}"


def _scored(task: str, cell: Cell, score: dict[str, Any], seed: int) -> Run:
    values = {key: score[key] for key in ("correct", "total", "percent", "low", "high")}
    weights = {key: score[key] for key in ("prefill", "decode")}
    return Run(case={"task": task, **cell._asdict()}, seed=seed, values=values, details=weights)


def _tuned(tuning: Tuning, result: dict[str, Any]) -> Run:
    case: Case = {"task": tuning.task, "scheme": tuning.scheme}
    case |= {} if tuning.retuned_for is None else {"retuned_for": tuning.retuned_for}
    values = {"validation_loss": round(result["validation_loss"], 4)}
    values |= {"cpu_s": round(result["cpu_s"], 1)} if result.get("cpu_s") is not None else {}
    details = {key: result[key] for key in ("losses", "decoder", "revision")}
    return Run(case=case, seed=tuning.seed, values=values, details=details)


def _rates(runs: Iterable[Run]) -> dict[str, dict[str, float]]:
    """Return the learning rate that was kept, by task and scheme."""
    kept: dict[str, dict[str, float]] = {}
    for run in runs:
        losses: Any = run.details.get("losses")
        if losses and "retuned_for" not in run.case:
            best = min((rate for rate in losses if losses[rate] is not None), key=losses.__getitem__)
            kept.setdefault(str(run.case["task"]), {})[str(run.case["scheme"])] = float(best)
    return kept


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.quantized",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=model.BASE.parent / "quantized", help="finished parts")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report and of the table")
    parser.add_argument(
        "--grids",
        type=grid_of,
        nargs="+",
        default=[Grid("rtn", 4, 64)],
        metavar="[QUANTIZER:]BITS:GROUP",
        help="grids of the quantised weights (4:64)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="tunings at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--no-full", action="store_true", help="leave out the rows of full fine-tuning")
    options = parser.parse_args(arguments)
    setting = Setting(EXAMPLES)
    torch.set_num_threads(options.threads)
    try:
        if not (model.BASE / "config.json").exists():
            raise ModelError(f"{model.BASE}: no model; make it first: `make model`")
        base = stored_folder(options.work / "base", _write_bfloat16)
        runs = measure(
            base, options.work, setting, options.grids, options.jobs, options.threads, full=not options.no_full
        )
    except UserError as e:
        _say(f"quantized: {e}")
        return 1
    settings = {
        **asdict(setting),
        "tasks": {task: {"examples": count} for task, count in setting.examples.items()},
        "rates": _rates(runs),
        "grids": [grid._asdict() for grid in options.grids],
        "base": weights_revision(base),
        "threads": options.threads,
        "jobs": options.jobs,
    }
    del settings["examples"]
    report = new_report(SMOLLM2.name, _command(options), runs, UNITS, seeds=[setting.seed], settings=as_json(settings))
    write_report(report, options.out / f"{SMOLLM2.name}.json")
    sys.stdout.write(SMOLLM2.draw(options.out, options.out).read_text(encoding="utf-8"))
    return 0


def _command(options: argparse.Namespace) -> str:
    grids = " ".join(f"{g.quantizer}:{g.bits}:{g.group}" for g in options.grids)
    left_out = " --no-full" if options.no_full else ""
    return f"python -m sun_sglang.bench.smollm2.quantized --grids {grids} --jobs {options.jobs}{left_out}"


def _write_bfloat16(out: Path) -> None:
    """Write the base in the 16 bits in which it is served."""
    save_model(load_model(model.BASE), load_tokenizer(model.BASE), out, torch.bfloat16)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
