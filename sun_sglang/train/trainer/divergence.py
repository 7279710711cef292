"""Stop a training that diverged, and find values that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from sun_sglang.train.trainer.launched_processes import are_connected


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first tensor with a value that is NaN or infinite; None if there is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


class StopOnDivergence(TrainerCallback):  # type: ignore[misc] # transformers is not followed, so its classes are Any
    """Ends a training after the step in which a loss was not finite, in every process and without a checkpoint.

    Attributes:
        diverged: whether the training ended so.
    """

    def __init__(self) -> None:
        self.diverged = False
        self._loss_is_finite = True

    def note(self, loss: torch.Tensor) -> None:
        """Record the loss of a forward pass of this process."""
        if self._loss_is_finite:
            self._loss_is_finite = bool(torch.isfinite(loss.detach()).all())

    def on_step_end(self, args: Any, _state: Any, control: Any, model: Any = None, **_kwargs: object) -> None:
        """Stop if a process saw a loss that is not finite; before a checkpoint, look at the weights too."""
        finite = self._loss_is_finite
        if finite and control.should_save:
            finite = not_finite({n: _local(p) for n, p in model.named_parameters() if p.requires_grad}) is None
        flag = torch.tensor(0.0 if finite else 1.0, device=args.device)
        if are_connected():
            torch.distributed.all_reduce(flag)
        if flag.item():
            self.diverged = True
            control.should_training_stop = True
            control.should_save = False


def _local(parameter: Any) -> torch.Tensor:
    """Return this process's part of a parameter."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    assert isinstance(local, torch.Tensor)
    return local.detach()
