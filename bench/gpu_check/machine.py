"""Facts about the machine for a bug report: driver, CUDA, NCCL, UCX, and how the GPUs are connected."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from sun_sglang.bench.gpu_check.errors import CheckError
from sun_sglang.bench.provenance import Machine, this_machine
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu, used_memory

PACKAGES = (
    "sun-sglang",
    "sglang",
    "sglang-kernel",
    "flashinfer-python",
    "torch",
    "triton",
    "transformers",
    "compressed-tensors",
    "nixl",
    "nixl-cu12",
    "nixl-cu13",
    "mooncake-transfer-engine",
    "mooncake-transfer-engine-non-cuda",
)
_TIMEOUT = 60
_SETTINGS = ("NCCL_", "UCX_", "CUDA_VISIBLE")
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


def facts() -> Machine:
    """Return what a bug report needs of the machine; no path and no host name is among it."""
    machine = this_machine()
    gpus = _lines("nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap,mig.mode.current")[1:]
    details: dict[str, JsonValue] = {
        "torch": _torch(),
        "topology": list(_lines("nvidia-smi", "topo", "-m")),
        "ucx": [line for line in _lines("ucx_info", "-v") if "version" in line],
        "environment": dict(_settings(os.environ)),
    }
    return machine.model_copy(update={"gpus": tuple(gpus), "details": details})


def stage_gpus(gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Return the indices of the whole GPUs, else of one MIG device: a CUDA process cannot use two."""
    whole = [gpu.index for gpu in gpus if not gpu.mig]
    return tuple(whole or [gpu.index for gpu in gpus][:1])


def gpu_memory_used(gpus: Sequence[int]) -> int:
    """Return the MiB that all processes use on these GPUs; 0 without GPUs.

    Raises:
        CheckError: `nvidia-smi` does not report it.
    """
    used = used_memory() if gpus else {}
    if unknown := [gpu for gpu in gpus if gpu not in used]:
        raise CheckError(f"`nvidia-smi` does not report the memory in use on GPU {unknown[0]}")
    return sum(used[gpu] for gpu in gpus)


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the transfer libraries; the value of a path or of a host's identity is left out."""
    found = sorted((k, v) for k, v in environment.items() if k.startswith(_SETTINGS))
    return {k: "(left out)" if "/" in v or "HOST" in k else v for k, v in found}


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {}
    found: dict[str, Any] = {"cuda": torch.version.cuda}
    if torch.cuda.is_available():
        # torch gives these functions no types
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call] # torch leaves these without types
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call] # torch leaves these without types
    return found


def _lines(tool: str, *arguments: str) -> list[str]:
    """Return a tool's output; none where the tool is missing, fails or hangs."""
    if not shutil.which(tool):
        return []
    options = ["--format=csv"] if any(a.startswith("--query") for a in arguments) else []
    command = [tool, *arguments, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return []
    text = _COLOUR.sub("", done.stdout) if done.returncode == 0 else ""
    return [line.rstrip() for line in text.splitlines() if line.strip()]
