"""GPU memory that the driver has yet to free after a worker's end.

A worker that starts meanwhile runs out of memory. The list of processes that `nvidia-smi` prints is no help: in a
container it is empty.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from sun_sglang.launch.planning.hardware.gpu_inventory import used_memory

# the kernel unpins and unmaps all memory of a killed process before it is gone
_PATIENCE_S = 30.0
_LOOK_S = 0.5
# two readings of an idle GPU may differ by this
_SLACK_MB = 256


class GpuMemory:
    """Waits until the GPUs of a worker that has ended are free.

    A GPU that one worker has for itself is free when no more memory is in use than before any worker started. A GPU
    that workers share counts as free when the memory in use has stopped falling. So does a GPU without a reading from
    `nvidia-smi`.

    Args:
        devices: the GPUs of each worker of the deployment, by the worker's name.
        read: returns the MiB in use, by GPU.
    """

    def __init__(
        self, devices: Mapping[str, Sequence[int]], read: Callable[[], Mapping[int, int]] = used_memory
    ) -> None:
        users = Counter(gpu for gpus in devices.values() for gpu in gpus)
        self._devices = devices
        self._shared = {gpu for gpu, count in users.items() if count > 1}
        self._any = bool(users)
        self._read = read
        self._before: Mapping[int, int] = {}

    async def open(self) -> None:
        """Read the memory in use before the first start."""
        if self._any:
            self._before = await asyncio.to_thread(self._read)

    async def wait(self, worker: str) -> str:
        """Wait until the GPUs of a worker that has ended are free, or half a minute.

        Returns:
            a sentence that names the GPUs that are not free; empty if all are.
        """
        known = [gpu for gpu in self._devices.get(worker, ()) if gpu in self._before]
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
                return f"{used} {_PATIENCE_S:g} s after the end of `{worker}`, which is started again all the same"
            last = now
            await asyncio.sleep(_LOOK_S)

    def _is_busy(self, gpu: int, last: Mapping[int, int], now: Mapping[int, int]) -> bool:
        if gpu not in now:
            return False
        if gpu in self._shared:
            return gpu not in last or last[gpu] - now[gpu] > _SLACK_MB
        return now[gpu] > self._before[gpu] + _SLACK_MB
