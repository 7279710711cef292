"""A machine with a GPU by the reports of nvidia-smi, torch and SGLang's platform; no kernel can run on it.

SGLang is imported first, as on the CPU, and the GPU appears afterwards: what SGLang decides while it resolves its
arguments then follows the GPU, and no module tries to load a CUDA library.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_RESOLVING = (
    "sglang.srt.server_args",
    "sglang.srt.arg_groups.pipeline",
    "sglang.srt.mem_cache.kv_cache_builder",
    "sglang.srt.mem_cache.registry",
)
_SMI = """#!{python}
import sys
known = {known!r}
(asked,) = (a.removeprefix("--query-gpu=") for a in sys.argv if a.startswith("--query-gpu="))
for index in range({count}):
    print(", ".join(known[field].format(index=index) for field in asked.split(",")))
"""


@dataclass(frozen=True)
class FakedGpu:
    """One kind of GPU.

    Attributes:
        name: as the driver reports it.
        capability: CUDA's compute capability.
        memory_mb: as nvidia-smi reports it, in MiB.
    """

    name: str
    capability: tuple[int, int]
    memory_mb: int


GPUS = {
    "a100": FakedGpu("NVIDIA A100-SXM4-80GB", (8, 0), 81920),
    "h100": FakedGpu("NVIDIA H100 80GB HBM3", (9, 0), 81559),
    "b200": FakedGpu("NVIDIA B200", (10, 0), 183359),
}


def install_nvidia_smi(directory: Path, gpu: FakedGpu, count: int) -> None:
    """Write an `nvidia-smi` that answers `--query-gpu` for identical GPUs; its directory must be on the `PATH`."""
    known = {
        "index": "{index}",
        "uuid": "GPU-00000000-0000-0000-0000-00000000000{index}",
        "name": gpu.name,
        "memory.total": str(gpu.memory_mb),
        "compute_cap": ".".join(map(str, gpu.capability)),
        "driver_version": "580.95.05",
        "mig.mode.current": "Disabled",
        "pci.bus_id": "00000000:0{index}:00.0",
    }
    directory.mkdir(parents=True, exist_ok=True)
    tool = directory / "nvidia-smi"
    tool.write_text(_SMI.format(python=sys.executable, known=known, count=count))
    tool.chmod(0o755)


def import_without_gpu() -> None:
    """Import what resolves SGLang's arguments, with the hooks; its platform object is already CUDA's."""
    from sun_sglang.worker.server import prepare_process

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    prepare_process()
    from sglang.srt import platforms
    from sglang.srt.platforms.cuda import CudaSRTPlatform

    platforms._current_platform = CudaSRTPlatform()
    for module in _RESOLVING:
        importlib.import_module(module)
    from sglang.srt.plugins import load_plugins

    load_plugins()


def appear(gpu: FakedGpu) -> None:
    """Make a GPU visible to torch and SGLang, for the rest of this process."""
    import torch
    from sglang.srt.runtime_context import override_platform
    from sglang.srt.utils import common

    for name in ("SGLANG_USE_CPU_ENGINE", "CUDA_VISIBLE_DEVICES"):
        os.environ.pop(name, None)
    major, minor = gpu.capability
    memory = gpu.memory_mb << 20
    properties = SimpleNamespace(
        name=gpu.name, major=major, minor=minor, total_memory=memory, multi_processor_count=132
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": gpu.name,
        "get_device_capability": gpu.capability,
        "get_device_properties": properties,
        "mem_get_info": (memory, memory),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_args, answer=answer, **_kwargs: answer)
    torch.version.cuda = "13.0"
    for probe in vars(common).values():
        if hasattr(probe, "cache_clear"):
            probe.cache_clear()
    override_platform(
        is_cuda=True,
        is_sm90=major == 9,
        is_hopper_with_cuda_12_3=major == 9,
        is_sm100=major == 10,
        is_sm120=major == 12,
        is_blackwell=major >= 10,
        has_flashinfer=True,
        device_sm=10 * major + minor,
        device_capability=gpu.capability,
    ).install()
