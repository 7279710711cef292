"""The trained parameters of a module: gathered from all processes, and copied back from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from sun_sglang.train.trainer import deepspeed


def trained_state(module: torch.nn.Module) -> dict[str, Any]:
    """The trained parameters by name, whole, each once however often the model ties it.

    Args:
        module: whose parameters; where they are sharded, every process has to call this.
    """
    return {name: _gather(p).detach().clone().contiguous() for name, p in module.named_parameters() if p.requires_grad}


def _gather(parameter: torch.nn.Parameter) -> torch.Tensor:
    return parameter.full_tensor().cpu() if isinstance(parameter, DTensor) else deepspeed.gather_parameter(parameter)


def load_trained(module: torch.nn.Module, file: Path) -> None:
    """Put the parameters that `trained_state` gave back into their place."""
    state, parameters = load_file(file), {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert state.keys() == parameters.keys(), "the checkpoint is of another module"
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)
