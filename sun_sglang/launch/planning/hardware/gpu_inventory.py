"""List the NVIDIA GPUs of this machine without a CUDA context: from `nvidia-smi`, else from the driver's files.

`../gpu_assignment.py` decides which worker gets which of them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sun_sglang.errors import UserError
from sun_sglang.strict import Strict

# makes CUDA number GPUs as `nvidia-smi` does; its default order begins with the fastest GPU
DEVICE_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_QUERY = ("--query-gpu=index,uuid,name,memory.total,mig.mode.current", "--format=csv,noheader,nounits")
_MEMORY_QUERY = ("--query-gpu=index,memory.used", "--format=csv,noheader,nounits")
_DRIVER = Path("/proc/driver/nvidia/gpus")
_TIMEOUT_S = 60.0
_GPU_LINE = re.compile(r"GPU (\d+): ")
_MIG_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")
# values that hide every GPU that follows; Slurm sets the second one for a job without GPUs
_HIDES_THE_REST = ("-1", "NoDevFiles")


class Gpu(Strict):
    """One GPU, or one MIG device of a GPU that is split.

    Attributes:
        index: its number in a topology's `gpus`. A whole GPU has the number of `nvidia-smi`; MIG devices follow the
            last GPU, in the order of `nvidia-smi -L`.
        uuid: the UUID that the driver reports.
        name: the model, and the profile of a MIG device.
        memory_mb: its memory in MiB; 0 for a MIG device, and where only the driver's files could be read.
        mig: whether it is a MIG device.
    """

    index: int
    uuid: str
    name: str
    memory_mb: int
    mig: bool = False

    @property
    def cuda_name(self) -> str:
        """Its name in `CUDA_VISIBLE_DEVICES` under `DEVICE_ORDER`."""
        return self.uuid if self.mig else str(self.index)


def usable_gpus(environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs of this machine that this process may use. Reads no driver if `environ` hides all GPUs.

    Raises:
        UserError: `nvidia-smi` does not answer, no GPU can be used, or an entry of `CUDA_VISIBLE_DEVICES` is wrong.
    """
    if environ.get(VISIBLE_DEVICES, "all").strip() in ("", *_HIDES_THE_REST):
        return ()
    return visible_gpus(installed_gpus(), environ)


def installed_gpus() -> tuple[Gpu, ...]:
    """Return every GPU and MIG device of this machine that CUDA could use.

    Raises:
        UserError: `nvidia-smi` does not answer, or every GPU is in MIG mode and has no MIG device.
    """
    table = _nvidia_smi(*_QUERY)
    if table is not None:
        listing = _nvidia_smi("-L") if re.search(r",\s*Enabled\s*$", table, re.MULTILINE) else None
        return parse_nvidia_smi(table, listing or "")
    if not _DRIVER.is_dir():
        return ()
    # one directory for each GPU, named by its PCI address
    files = sorted(_DRIVER.glob("*/information"))
    return tuple(_from_driver(i, f.read_text()) for i, f in enumerate(files))


def parse_nvidia_smi(table: str, listing: str = "") -> tuple[Gpu, ...]:
    """Return the GPUs in the output of `nvidia-smi`; its MIG devices replace a GPU in MIG mode.

    Args:
        table: CSV rows of index, uuid, name, total memory in MiB, MIG mode.
        listing: output of `nvidia-smi -L`; required if a GPU is in MIG mode.

    Raises:
        UserError: every GPU is in MIG mode and has no MIG device.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines() if line.strip()]
    rows = [row for row in rows if len(row) == 5 and row[0].isdigit()]
    split = {int(row[0]): row[2] for row in rows if row[4] == "Enabled"}
    whole = [
        Gpu(index=int(row[0]), uuid=row[1], name=row[2], memory_mb=int(row[3]) if row[3].isdigit() else 0)
        for row in rows
        if int(row[0]) not in split
    ]
    first = max((int(row[0]) for row in rows), default=-1) + 1
    parts = [
        Gpu(index=first + i, uuid=uuid, name=f"{split[gpu]} MIG {profile} of GPU {gpu}", memory_mb=0, mig=True)
        for i, (gpu, profile, uuid) in enumerate(_mig_devices(listing))
        if gpu in split
    ]
    if split and not whole and not parts:
        numbers = ", ".join(map(str, split))
        raise UserError(
            f"GPU {numbers} is in MIG mode and has no MIG device; create one (`nvidia-smi mig -cgi PROFILE -C`), or "
            f"set `{VISIBLE_DEVICES}=` to use the CPU"
        )
    return (*whole, *parts)


def visible_gpus(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that `CUDA_VISIBLE_DEVICES` selects, in its order.

    Its entries are numbers of `nvidia-smi`, UUIDs of GPUs or MIG devices, or the beginnings of UUIDs. CUDA ends the
    list silently at an unknown entry. Here such an entry is an error: the deployment would run on fewer GPUs than its
    user named, or on the CPU.

    Raises:
        UserError: an entry matches no GPU, several, or one that was named before.
    """
    wanted = environ.get(VISIBLE_DEVICES)
    if wanted is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for item in (part.strip() for part in wanted.split(",")) if wanted.strip() else ():
        if item in _HIDES_THE_REST:
            break
        found = [g for g in gpus if item and (item == g.cuda_name or g.uuid.startswith(item))]
        if len(found) != 1 or found[0] in chosen:
            raise _unmatched(item, gpus, found)
        chosen.append(found[0])
    return tuple(chosen)


def used_memory() -> dict[int, int]:
    """Return the MiB in use on each whole GPU, by index; empty where `nvidia-smi` does not report them."""
    try:
        table = _nvidia_smi(*_MEMORY_QUERY) or ""
    except UserError:
        return {}
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    return {int(row[0]): int(row[1]) for row in rows if len(row) == 2 and row[0].isdigit() and row[1].isdigit()}


def _unmatched(item: str, gpus: Sequence[Gpu], found: Sequence[Gpu]) -> UserError:
    problem = "matches more than one GPU" if len(found) > 1 else "is named twice" if found else "matches no GPU"
    names = ", ".join(f"{g.cuda_name} ({g.name})" for g in gpus) or "none"
    missing = (
        "" if shutil.which("nvidia-smi") else "; only `nvidia-smi`, which is not installed here, lists MIG devices"
    )
    hint = missing if item.startswith("MIG-") else ""
    return UserError(f"{VISIBLE_DEVICES}: `{item}` {problem}; GPUs here: {names}{hint}. Set it empty to use the CPU")


def _mig_devices(listing: str) -> list[tuple[int, str, str]]:
    """Return GPU index, profile and UUID of each MIG device that `nvidia-smi -L` lists."""
    found: list[tuple[int, str, str]] = []
    gpu = -1
    for line in listing.splitlines():
        if head := _GPU_LINE.match(line):
            gpu = int(head[1])
        elif device := _MIG_LINE.match(line):
            found.append((gpu, device[1], device[2]))
    return found


def _nvidia_smi(*options: str) -> str | None:
    """Return the output of `nvidia-smi`; None where it is not installed or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        done = subprocess.run([tool, *options], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as e:
        problem = f"`nvidia-smi` did not answer within {_TIMEOUT_S:g} s: the driver hangs"
        raise UserError(f"{problem}; set `{VISIBLE_DEVICES}=` to use the CPU") from e
    return done.stdout if done.returncode == 0 else None


def _from_driver(index: int, information: str) -> Gpu:
    fields = dict(re.findall(r"^([^:]+):\s*(.*?)\s*$", information, re.MULTILINE))
    return Gpu(index=index, uuid=fields.get("GPU UUID", ""), name=fields.get("Model", "NVIDIA GPU"), memory_mb=0)
