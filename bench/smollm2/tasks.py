"""Tune SmolLM2's four tasks, and check that their modules differ from the base and each other (`make model-tasks`).

    python -m sun_sglang.bench.smollm2.tasks

Writes the data, runs `sun train configs/smollm2/train/TASK.yaml --merge --resume` for each task, and writes a report.
A second run continues what was interrupted, and keeps what is done.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.provenance import as_json
from sun_sglang.bench.report import Run, new_report, write_report
from sun_sglang.bench.smollm2.data import SEED, TASKS, write_data
from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.model import BASE
from sun_sglang.errors import UserError

RECIPES = Path("configs/smollm2/train")
NAME = "smollm2_tasks"
UNITS = {"loss_before": "nats a token", "loss_after": "nats a token", "train_s": "s"}
_PROMPTS = 2  # of each task
_LENGTH = 16


def make_tasks(built: Path, jobs: int, threads: int) -> list[Run]:
    """Tune the four tasks and return what was measured; a task that was begun before has no seconds.

    Args:
        built: the folder of the base and of the tasks' modules, as the recipes name it.
        jobs: tasks that are tuned at once.
        threads: CPU threads of each.

    Raises:
        UserError: the base is missing, a training failed, or two modules answer alike.
    """
    if not (built / "base" / "config.json").exists():
        raise ModelError(f"{built / 'base'}: no model; make it first: `make model`")
    write_data(built / "data")
    with ThreadPoolExecutor(jobs) as pool:
        seconds = dict(zip(TASKS, pool.map(lambda task: _train(task, built, threads), TASKS), strict=True))
    return _compare(built, seconds, threads)


def _train(task: str, built: Path, threads: int) -> float | None:
    """Run `sun train` for a task, with its output in a file; return its seconds, None if it was begun before."""
    begun, start = (built / task).exists(), time.monotonic()
    command = sun_command("train", str(RECIPES / f"{task}.yaml"), "--merge", "--resume", "--threads", str(threads))
    log = built / f"{task}.log"
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise ModelError(
            f"{RECIPES / task}.yaml: `sun train` failed ({lines[-1] if lines else 'no output'}); see {log}"
        )
    seconds = time.monotonic() - start
    _say(f"tasks: {task}: {seconds:.0f} s{', begun before' if begun else ''}")
    return None if begun else seconds


def _compare(built: Path, seconds: dict[str, float | None], threads: int) -> list[Run]:
    # heavy imports, after the trainings
    import torch

    from sun_sglang.bench.smollm2.comparison import answers_of, require_different, validation_loss
    from sun_sglang.train.checkpoint import load_model
    from sun_sglang.train.recipe import load_recipe
    from sun_sglang.train.sweep import prepare

    torch.set_num_threads(threads)
    base = built / "base"
    examples = {task: prepare(load_recipe(RECIPES / f"{task}.yaml")).examples.validation for task in TASKS}
    prompts = [e.prompt for task in TASKS for e in examples[task][:_PROMPTS]]
    decoder, untuned = load_model(base), load_model(base)
    runs = []
    for task, took in seconds.items():
        before = validation_loss(untuned, decoder, examples[task])
        after = validation_loss(load_model(built / task), decoder, examples[task])
        _say(f"tasks: {task}: validation loss {before:.3f} -> {after:.3f}")
        values = {"loss_before": round(before, 4), "loss_after": round(after, 4)}
        values |= {} if took is None else {"train_s": round(took, 1)}
        runs.append(Run(case={"task": task}, seed=SEED, values=values))
    modules = {name: answers_of(built / name, None, prompts, _LENGTH) for name in ("base", *TASKS)}
    served = {"base": modules["base"]} | {task: answers_of(built / task, base, prompts, _LENGTH) for task in TASKS}
    details = {"merged": require_different(modules), "decoded_by_base": require_different(served)}
    _say(f"tasks: of {len(prompts)} answers differ: {details}")
    return [*runs, Run(details=as_json({"prompts": len(prompts), "answers_that_differ": details}))]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.tasks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--jobs", type=int, default=2, help="tasks that are tuned at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--out", type=Path, default=BASE.parent, help="folder of the report")
    options = parser.parse_args(arguments)
    try:
        runs = make_tasks(BASE.parent, options.jobs, options.threads)
    except UserError as e:
        _say(f"tasks: {e}")
        return 1
    settings = {"jobs": options.jobs, "threads": options.threads}
    command = f"python -m sun_sglang.bench.smollm2.tasks --jobs {options.jobs} --threads {options.threads}"
    write_report(new_report(NAME, command, runs, UNITS, seeds=(SEED,), settings=settings), options.out / f"{NAME}.json")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
