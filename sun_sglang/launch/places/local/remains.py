"""What a worker's end may leave for a while: processes of its group, and GPU memory that the driver has yet to free.

A worker that starts meanwhile runs out of GPU memory. The list of processes that `nvidia-smi` prints is no help: in a
container it is empty.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from sun_sglang.errors import LaunchError
from sun_sglang.launch.planning.gpu_inventory import used_memory
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.processes import group_of

# SGLang's schedulers end with their parent; multiprocessing's tracker ends after them and removes their shared memory
_GRACE_S = 5.0
# the kernel unpins and unmaps all memory of a killed process before it is gone
_PATIENCE_S = 30.0
_LOOK_S = 0.05
_LOOK_AT_GPU_S = 0.5
# what may differ between two looks at an idle GPU
_SLACK_MB = 256


async def end_group(group: int) -> None:
    """Wait until each process of a group has ended; kill those that do not end by themselves.

    Args:
        group: the process group of a leader that has ended; the leader was a child of this session.

    Raises:
        LaunchError: a killed process did not end either.
    """
    began = time.monotonic()
    while pids := group_members(group):
        waited = time.monotonic() - began
        if waited >= _GRACE_S + _PATIENCE_S:
            raise LaunchError(
                f"processes {pids} of the last start did not end within {_PATIENCE_S:g} s of SIGKILL (a driver may "
                "hold them); it is not started again beside them"
            )
        if waited >= _GRACE_S:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_LOOK_S)


def group_members(group: int) -> list[int]:
    """Return the processes of a group of this session that have not ended."""
    wanted = (group, os.getsid(0))
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    return sorted(pid for pid in pids if group_of(pid) == wanted)


class GpuMemory:
    """Tells when the GPUs of a worker that has ended are free.

    A GPU that one worker has for itself is free when no more is in use than before any worker started. One that workers
    share is taken as free when what is in use has stopped falling. So is one of which `nvidia-smi` tells nothing.

    Args:
        workers: all of the deployment.
        read: returns the MiB in use, by GPU.
    """

    def __init__(self, workers: Iterable[WorkerPlan], read: Callable[[], Mapping[int, int]] = used_memory) -> None:
        users = Counter(gpu for worker in workers for gpu in worker.gpus)
        self._shared = {gpu for gpu, count in users.items() if count > 1}
        self._any = bool(users)
        self._read = read
        self._before: Mapping[int, int] = {}

    async def open(self) -> None:
        """Read what is in use before the first start."""
        if self._any:
            self._before = await asyncio.to_thread(self._read)

    async def wait(self, worker: WorkerPlan) -> str:
        """Wait until the GPUs of a worker that has ended are free, or half a minute.

        Returns:
            a sentence that names the GPUs that are not free; empty if all are.
        """
        known = [gpu for gpu in worker.gpus if gpu in self._before]
        if not known:
            return ""
        began = time.monotonic()
        last: Mapping[int, int] = {}
        while True:
            now = await asyncio.to_thread(self._read)
            busy = [gpu for gpu in known if self._is_busy(gpu, last, now)]
            if not busy:
                return ""
            if time.monotonic() - began >= _PATIENCE_S:
                used = ", ".join(f"GPU {g} has {now[g]} MiB in use ({self._before[g]} before the start)" for g in busy)
                return f"{used} {_PATIENCE_S:g} s after the end of `{worker.name}`, which is started again all the same"
            last = now
            await asyncio.sleep(_LOOK_AT_GPU_S)

    def _is_busy(self, gpu: int, last: Mapping[int, int], now: Mapping[int, int]) -> bool:
        if gpu not in now:
            return False
        if gpu in self._shared:
            return gpu not in last or last[gpu] - now[gpu] > _SLACK_MB
        return now[gpu] > self._before[gpu] + _SLACK_MB
