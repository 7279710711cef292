"""What this machine has, without importing torch and without creating a CUDA context.

A process that has touched CUDA cannot fork workers that use it, and the launcher forks: so GPUs are read from
`nvidia-smi`, or from the driver's files where that is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from sun_sglang.topology import Strict

_DRIVER = Path("/proc/driver/nvidia/gpus")
_RDMA = Path("/sys/class/infiniband")
_CPUINFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")
# instruction sets that multiply bfloat16; `avx512bf16` is how other kernels spell it, `bf16` is ARM's
_BF16_ARITHMETIC = frozenset({"avx512_bf16", "avx512bf16", "amx_bf16", "bf16"})
TRANSFER_PACKAGES = ("mooncake", "nixl")


class Gpu(Strict):
    """One GPU as the driver reports it. `memory_mb` is 0 where only the driver's files could be read."""

    index: int
    uuid: str
    name: str
    memory_mb: int


class Machine(Strict):
    """What a plan may use.

    Attributes:
        gpus: the GPUs that this process may use, in CUDA's order.
        cores: CPU cores that this process may use.
        memory: bytes of memory that this process may use.
        cpu_bf16: whether the processor multiplies bfloat16; without, float32 is both faster and more exact.
        rdma: names of the RDMA devices.
        transfer: which KV transfer packages can be imported, of `TRANSFER_PACKAGES`.
    """

    gpus: tuple[Gpu, ...] = ()
    cores: int
    memory: int
    cpu_bf16: bool = False
    rdma: tuple[str, ...] = ()
    transfer: frozenset[str] = frozenset()


def detect() -> Machine:
    """Look at this machine: its driver, processor, control group and installed packages."""
    return Machine(
        gpus=visible_gpus(_installed_gpus(), os.environ),
        cores=_cores(),
        memory=_memory(),
        cpu_bf16=multiplies_bf16(_CPUINFO.read_text()) if _CPUINFO.exists() else False,
        rdma=tuple(sorted(p.name for p in _RDMA.iterdir())) if _RDMA.is_dir() else (),
        transfer=frozenset(name for name in TRANSFER_PACKAGES if importlib.util.find_spec(name)),
    )


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """GPUs from `nvidia-smi --query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits`."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    return tuple(
        Gpu(index=int(row[0]), uuid=row[1], name=row[2], memory_mb=int(row[3]) if row[3].isdigit() else 0)
        for row in rows
        if len(row) == 4 and row[0].isdigit()
    )


def visible_gpus(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """What `CUDA_VISIBLE_DEVICES` leaves of the installed GPUs, by CUDA's rule: the list ends at the first unknown."""
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return gpus
    chosen: list[Gpu] = []
    for item in (part.strip() for part in wanted.split(",")):
        found = [g for g in gpus if item and (item == str(g.index) or g.uuid.startswith(item))]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen.append(found[0])
    return tuple(chosen)


def multiplies_bf16(cpuinfo: str) -> bool:
    """Whether `/proc/cpuinfo` names an instruction set with bfloat16 arithmetic."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return bool(line and _BF16_ARITHMETIC & set(line[1].split()))


def quota_cores(cpu_max: str) -> int | None:
    """Whole cores that a control group's `cpu.max` allows, at least 1; None where it sets no limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit():
        return None
    return max(1, int(quota) // int(period))


def _installed_gpus() -> tuple[Gpu, ...]:
    tool = shutil.which("nvidia-smi")
    if tool:
        query = [tool, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return parse_nvidia_smi(done.stdout)
    if not _DRIVER.is_dir():
        return ()
    # without nvidia-smi: one directory a GPU, in the order of their PCI addresses, which is CUDA's default with
    # CUDA_DEVICE_ORDER=PCI_BUS_ID and, on machines with one kind of GPU, without it too
    files = sorted(_DRIVER.glob("*/information"))
    return tuple(_from_driver(i, f.read_text()) for i, f in enumerate(files))


def _from_driver(index: int, information: str) -> Gpu:
    fields = dict(re.findall(r"^([^:]+):\s*(.*?)\s*$", information, re.MULTILINE))
    return Gpu(index=index, uuid=fields.get("GPU UUID", ""), name=fields.get("Model", "NVIDIA GPU"), memory_mb=0)


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
