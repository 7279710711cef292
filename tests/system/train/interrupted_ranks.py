"""Trains as one of two processes that torchrun starts; started by `test_ranks`.

Arguments: a recipe that is stopped while the first process marks its second checkpoint, and is then resumed; and one
whose first rate gets one NaN loss in the second process alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import torch

from sun_sglang.train.recipe import load_recipe
from sun_sglang.train.sweep import prepare, run_sweep
from sun_sglang.train.trainer import whole_checkpoints
from sun_sglang.train.trainer.launched_processes import is_first_process

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import Trainer  # isort: skip

step, wait, mark = Trainer.training_step, whole_checkpoints.wait_for_all, whole_checkpoints.mark_whole


class Stopped(BaseException):
    """As if the job had been killed."""


class Course:
    """The steps of micro batches since the last reset, and the faults to come."""

    steps: ClassVar[list[int]] = []
    is_cut = True
    broken_rate: float | None = None


def watched_step(self: Any, *arguments: Any) -> Any:
    done = self.state.global_step
    Course.steps.append(done)
    loss = step(self, *arguments)
    diverges = self.args.learning_rate == Course.broken_rate and done == 1 and not is_first_process()
    return loss * torch.nan if diverges else loss


def wait_or_stop() -> None:
    wait()
    # where the first process marks
    if Course.is_cut and Course.steps[-1] == 3 and not is_first_process():
        raise Stopped


def mark_or_stop(checkpoint: Path) -> None:
    if Course.is_cut and checkpoint.name == "checkpoint-4":
        raise Stopped
    mark(checkpoint)


Trainer.training_step = watched_step
whole_checkpoints.wait_for_all = wait_or_stop
whole_checkpoints.mark_whole = mark_or_stop
torch.set_num_threads(1)
prepared = prepare(load_recipe(Path(sys.argv[1])))
try:
    run_sweep(prepared, "c", print)
except Stopped:
    Course.is_cut = False
assert Course.steps == [0, 1, 2, 3], Course.steps
run_sweep(prepared, "c", print, resume=True)
assert Course.steps[4:] == [2, 3, 4, 5], "it goes on after the checkpoint that is whole"

diverging = load_recipe(Path(sys.argv[2]))
Course.broken_rate, Course.steps = diverging.learning_rates[0], []
run_sweep(prepare(diverging), "c", print)
assert Course.steps == [0, 1, *range(6)], "the first rate ends with its second step, in both processes"
