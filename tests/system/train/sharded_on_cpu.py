"""Trains recipes as one of several processes over which FSDP2 or DeepSpeed shards; started by `test_sharded`.

Accelerate shards on GPUs and their like. On CPUs it runs DDP, or each process by itself, though FSDP2 and DeepSpeed
themselves run there. This module changes its state, so that it shards.

Arguments are recipes, and `NAME=VALUE` of environment variables for the recipes after. A recipe with `save_steps` is
stopped one step after its first checkpoint, and resumed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from sun_sglang.train.recipe import load_recipe
from sun_sglang.train.sweep import prepare, run_sweep
from sun_sglang.train.trainer import deepspeed

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import Trainer  # isort: skip

start, step = AcceleratorState.__init__, Trainer.training_step


class Stopped(BaseException):
    """As if the job had been killed."""


class Course:
    """Of a fit: the steps it began with and reached, and where it is to stop."""

    first: int | None = None
    stop: int | None = None


course = Course()


def start_fsdp(self: Any, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    start(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin


def use_gloo() -> None:
    import deepspeed as package

    # it would compile its own exchange between processes, for which there may be no compiler
    package.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState._prepare_backend = lambda *_arguments: ("gloo", DistributedType.MULTI_CPU)


def watched_step(self: Any, model: Any, *arguments: Any) -> Any:
    check_sharded(model)
    done = self.state.global_step
    if course.first is None:
        course.first = done
    if done == course.stop:
        raise Stopped
    return step(self, model, *arguments)


def check_sharded(model: Any) -> None:
    if not deepspeed.is_enabled():
        layers = [*model.prefill.model.layers, *model.decode.model.layers]
        assert all(isinstance(module, FSDPModule) for module in (model, *layers))
        assert all(isinstance(p, DTensor) for p in model.parameters())
        return
    stage = deepspeed.launched_config()["zero_optimization"]["stage"]
    assert model.zero_optimization_stage() == stage
    if stage == 3:
        assert all(p.ds_tensor.numel() < p.ds_numel for p in model.parameters())


def run(file: Path) -> None:
    recipe = load_recipe(file)
    course.first, course.stop = None, recipe.save_steps + 1 if recipe.save_steps else None
    try:
        run_sweep(prepare(recipe), "c", print)
        assert not recipe.save_steps, "it ought to have been stopped"
    except Stopped:
        course.first, course.stop = None, None
        run_sweep(prepare(recipe), "c", print, resume=True)
        assert course.first == recipe.save_steps, f"it went on after step {course.first}"


Trainer.training_step = watched_step
if deepspeed.is_enabled():
    use_gloo()
else:
    AcceleratorState.__init__ = start_fsdp
torch.set_num_threads(1)
for argument in sys.argv[1:]:
    name, assigned, value = argument.partition("=")
    if assigned:
        os.environ[name] = value
    else:
        run(Path(argument))
