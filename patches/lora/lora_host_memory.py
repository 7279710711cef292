"""Serve LoRA adapters without pinned memory on a machine without a GPU.

SGLang's LoRA asks torch for pinned memory without a look at the device (`lora/layers.py`, `lora/lora.py`,
`lora/backend/`), and torch refuses it where no GPU exists: a worker with adapters ends at its start. Pinned memory only
makes copies to a GPU faster. The hooks run the methods in which SGLang asks for it under a mode of torch that ignores
the request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from sun_sglang.cpu import has_gpu
from sun_sglang.patches.patch import Patch, Signature
from sun_sglang.patches.versions import on

_MANAGER = "sglang.srt.lora.lora_manager.LoRAManager"


def inactive_reason() -> str | None:
    """Return why this process does not need the hooks; None without a GPU."""
    return "this machine has a GPU" if has_gpu() else None


def ignore_pinning(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a method in which no tensor is pinned."""
    with _unpinned()():
        return method(*args, **kwargs)


@cache
def _unpinned() -> type[Any]:
    """Return the mode of torch that ignores requests for pinned memory; this module imports no torch by itself."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Unpinned(TorchFunctionMode):
        def __torch_function__(
            self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if function is torch.Tensor.pin_memory:
                return args[0]
            if kwargs and "pin_memory" in kwargs:
                kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
            return function(*args, **(kwargs or {}))

    return Unpinned


def _patch(name: str, method: str, parameters: tuple[Signature, ...], does: str) -> Patch:
    return Patch(
        name=f"lora_host_memory.{name}",
        target=f"{_MANAGER}.{method}",
        parameters=parameters,
        kind="around",
        hook=ignore_pinning,
        why="torch refuses pinned memory without a GPU, and SGLang's LoRA requests it",
        versions=on(does),
        removable_when="when SGLang's LoRA pins memory only where `is_pin_memory_available` allows it",
        inactive_reason=inactive_reason,
    )


_FROM_0_5_22 = (
    *("self", "base_model", "base_hf_config", "max_loras_per_batch", "load_config", "dtype", "server_args"),
    *("lora_backend", "max_lora_rank", "target_modules", "lora_paths"),
)
MANAGER = _patch(
    "manager",
    "__init__",
    (
        _FROM_0_5_22,
        (*_FROM_0_5_22[:8], "tp_size", "tp_rank", *_FROM_0_5_22[8:]),
    ),
    "makes the layers, and loads the adapters of the command line, without pinned memory",
)
LOAD = _patch(
    "load",
    "load_lora_weights",
    (("self", "lora_ref"),),
    "loads an adapter without pinned memory",
)
LOAD_TENSORS = _patch(
    "load_tensors",
    "load_lora_weights_from_tensors",
    (("self", "lora_ref", "tensors"),),
    "loads an adapter that a request contains without pinned memory",
)
BATCH = _patch(
    "batch",
    "prepare_lora_batch",
    (("self", "forward_batch"),),
    "describes the adapters of a batch without pinned memory",
)
