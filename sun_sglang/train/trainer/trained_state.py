"""The trained parameters of a module: gathered from all processes, and copied back from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from sun_sglang.train.trainer import deepspeed


def trained_state(module: torch.nn.Module) -> dict[str, Any]:
    """Return the trained parameters by name, gathered; a tied parameter appears once.

    Args:
        module: the module. Where its parameters are sharded, every process must call this.
    """
    return {name: _gather(p).detach().clone().contiguous() for name, p in module.named_parameters() if p.requires_grad}


def _gather(parameter: torch.nn.Parameter) -> torch.Tensor:
    return parameter.full_tensor().cpu() if isinstance(parameter, DTensor) else deepspeed.gather_parameter(parameter)


def load_trained(module: torch.nn.Module, file: Path) -> None:
    """Copy the parameters of a file with the result of `trained_state` into a module."""
    state, parameters = load_file(file), {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert state.keys() == parameters.keys(), "the checkpoint belongs to another module"
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)
