"""Trains recipes as one of several processes whose modules FSDP2 shards; started by `test_run`.

Accelerate shards on GPUs and their like, and runs DDP on CPUs whatever it is told, though FSDP2 itself runs there. Here
its state is told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from sun_sglang.train.recipe import load_recipe
from sun_sglang.train.run import prepare, train

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import Trainer  # isort: skip

start, step = AcceleratorState.__init__, Trainer.training_step


def start_sharded(self: Any, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    start(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin


def step_sharded(self: Any, model: Any, *arguments: Any) -> Any:
    layers = [*model.prefill.model.layers, *model.decode.model.layers]
    assert all(isinstance(module, FSDPModule) for module in (model, *layers))
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return step(self, model, *arguments)


AcceleratorState.__init__ = start_sharded
Trainer.training_step = step_sharded
torch.set_num_threads(1)
for file in sys.argv[1:]:
    train(prepare(load_recipe(Path(file))), "c", print)
