"""Replace the weights of a running model by those of another module with the same shapes, in place.

The memory of the weights stays, so captured CUDA graphs and the KV cache stay valid. It is the way of SGLang's
`update_weights_from_disk` (`model_executor/model_runner_components/weight_updater.py`), without its search for files,
its progress bars and its change of the model's path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def replace_weights(runner: Any, tensors: Iterable[tuple[str, Any]]) -> None:
    """Replace all weights. No batch may run, and none may be under way.

    Args:
        runner: SGLang's `ModelRunner`.
        tensors: names as in the checkpoint, and values.
    """
    import torch
    from sglang.srt.model_loader.loader import DefaultModelLoader
    from sglang.srt.model_loader.utils import set_default_torch_dtype

    device = torch.device(runner.device)
    synchronize(device)
    with torch.no_grad(), set_default_torch_dtype(runner.model_config.dtype):
        DefaultModelLoader.restore_weights_before_loading(runner.model, device)
        DefaultModelLoader.load_weights_and_postprocess(runner.model, iter(tensors), device)
    synchronize(device)


def synchronize(device: Any) -> None:
    """Wait for the work of a device: with overlapped scheduling a batch still runs while the next one is built."""
    import torch

    torch.get_device_module(device).synchronize()
