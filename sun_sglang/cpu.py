"""Make SGLang importable on a machine without a GPU; call before `import sglang` or `import transformers`.

Three things stop the import there, and a dense text model uses none of them: torchvision's wheel has operators that
load only with CUDA, `sgl_kernel` has no CPU wheel, and SGLang requires a variable that selects the CPU. This module can
go when SGLang installs on a CPU from PyPI.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_TORCHVISION_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def has_gpu() -> bool:
    """Return whether a GPU's driver is present and not hidden from this process. Opens no device."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return not hidden and any(device.exists() for device in _GPU_DEVICES)


def prepare_cpu_engine() -> None:
    """Make `import sglang` work without a GPU, in this process and in its children. A second call has no effect."""
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    # SGLang compiles functions in its scheduler when a request first needs them (`repetition_penalty`). On a CPU the
    # C++ compiler takes up to a minute, and the worker serves no request meanwhile.
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    define_torchvision_schemas()
    if "sgl_kernel" not in sys.modules and not _installed("sgl_kernel"):
        sys.modules["sgl_kernel"] = _AbsentKernels("sgl_kernel")


def define_torchvision_schemas() -> None:
    """Declare the operators for which a CUDA build of torchvision registers fakes, where their library did not load.

    Does nothing where torch or torchvision is absent, or where the operators exist.
    """
    if "torchvision" in sys.modules or not _installed("torch") or not _installed("torchvision"):
        return
    import torch

    if torch.version.cuda is not None:
        return
    for name, schema in _TORCHVISION_SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


class _AbsentKernels(ModuleType):
    """Stands for `sgl_kernel`: every name can be imported, none can be called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package, so that its submodules are looked up here

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError(
                f"sgl_kernel.{name} is a GPU kernel and this machine has none; use `device: cpu` defaults"
            )

        absent.__name__ = name
        return absent
