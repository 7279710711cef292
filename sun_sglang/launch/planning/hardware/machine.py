"""Detect the resources of this machine, without an import of torch and without a CUDA context."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import psutil
from pydantic import Field

from sun_sglang.errors import UserError
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu, usable_gpus
from sun_sglang.launch.planning.hardware.rdma import PROTOCOL, RdmaDevice, rdma_devices
from sun_sglang.strict import Strict

_CPUINFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")
# instruction sets that multiply bfloat16; some kernels spell the first one `avx512bf16`, and `bf16` is ARM's
_BF16_ARITHMETIC = frozenset({"avx512_bf16", "avx512bf16", "amx_bf16", "bf16"})
TRANSFER_PACKAGES = ("mooncake", "nixl")


class Machine(Strict):
    """The resources that a plan may use.

    Attributes:
        gpus: the GPUs that this process may use, in the order of `CUDA_VISIBLE_DEVICES`.
        gpu_problem: the reason for which these GPUs cannot be determined; no worker then runs on the CPU by default.
        cores: CPU cores that this process may use.
        memory: bytes of memory that this process may use.
        cpu_bf16: whether the processor multiplies bfloat16; if not, float32 is both faster and more exact.
        rdma: the RDMA devices, usable or not.
        mooncake_variables: the variables of mooncake's transfers that the environment sets.
        transfer_packages: the packages of `TRANSFER_PACKAGES` that can be imported.
        machines: number of machines for which it stands: `cores` and `memory` are of each, `gpus` of all together.
    """

    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str = ""
    cores: int
    memory: int
    cpu_bf16: bool = False
    rdma: tuple[RdmaDevice, ...] = ()
    mooncake_variables: dict[str, str] = Field(default_factory=dict)
    transfer_packages: frozenset[str] = frozenset()
    machines: int = 1


def detect_machine() -> Machine:
    """Return the resources of this machine, from its driver, processor, control group and installed packages."""
    gpus, problem = _gpus()
    return Machine(
        gpus=gpus,
        gpu_problem=problem,
        cores=_cores(),
        memory=_memory(),
        cpu_bf16=multiplies_bf16(_CPUINFO.read_text()) if _CPUINFO.exists() else False,
        rdma=rdma_devices(),
        mooncake_variables={
            name: value for name, value in os.environ.items() if name.startswith((PROTOCOL, "MC_TCP_"))
        },
        transfer_packages=frozenset(name for name in TRANSFER_PACKAGES if importlib.util.find_spec(name)),
    )


def multiplies_bf16(cpuinfo: str) -> bool:
    """Return whether the text of `/proc/cpuinfo` lists an instruction set with bfloat16 arithmetic."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return bool(line and _BF16_ARITHMETIC & set(line[1].split()))


def quota_cores(cpu_max: str) -> int | None:
    """Return the whole cores that a control group's `cpu.max` allows, at least 1; None where it sets no limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit():
        return None
    return max(1, int(quota) // int(period))


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that may be used, and the reason for which they cannot be determined; one of the two is empty."""
    try:
        return usable_gpus(os.environ), ""
    except UserError as e:
        return (), str(e)


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _CGROUP / "cpu.max"
    quota = quota_cores(limit.read_text()) if limit.exists() else None
    return min(cores, quota) if quota else cores


def _memory() -> int:
    total = psutil.virtual_memory().total
    limit = _CGROUP / "memory.max"
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total
