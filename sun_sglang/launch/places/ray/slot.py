"""The room of one worker in a Ray cluster: its placement group and its hosts, one for each machine of the worker."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.place import Address
from sun_sglang.launch.places.ray.calls import answered
from sun_sglang.launch.places.ray.host.worker_host import HostState
from sun_sglang.launch.places.ray.log_copy import LogCopy

_ENDED_WITHIN_S = 60.0


class RaySlot:
    """The slot of one worker.

    Args:
        hosts: the handles of its actors, by rank.
        states: their states when they were opened.
        is_adopted: an earlier launcher has reserved it, and `reserve` has not returned it yet.
    """

    def __init__(self, hosts: tuple[Any, ...], states: tuple[HostState, ...], *, is_adopted: bool = False) -> None:
        self.worker = states[0].worker
        self.address: Address = states[0].address
        self.hosts = hosts
        self.group = states[0].group
        self.is_adopted = is_adopted
        self._copies: list[LogCopy] = []

    async def wait_free(self) -> None:
        """Return at once: the GPUs are this worker's alone, and the driver frees their memory with its processes."""

    def copy_logs(self, log: Path) -> None:
        """Begin to copy the output of its hosts: rank 0's to `log`, the others' to files beside it."""
        if self._copies:
            return
        for rank, host in enumerate(self.hosts):
            file = log if rank == 0 else log.with_suffix(f".rank{rank}.log")
            self._copies.append(LogCopy(partial(self._read_log, host), file))

    async def end(self) -> None:
        """End what runs, the actors and the placement group; no error where Ray has lost them."""
        await asyncio.gather(*(self._end(host) for host in self.hosts))
        await asyncio.to_thread(remove_group, self.group)

    async def _end(self, host: Any) -> None:
        import ray

        for copy in self._copies:
            await copy.close()
        self._copies = []
        with suppress(LaunchError):
            await answered(self.worker, host.end.remote, within=_ENDED_WITHIN_S)
        await asyncio.to_thread(ray.kill, host)

    async def _read_log(self, host: Any, offset: int, patience: float) -> bytes:
        chunk: bytes = await answered(self.worker, lambda: host.read_log.remote(offset, patience))
        return chunk


def remove_group(group: str) -> None:
    """Give a placement group back to Ray; no error where there is none."""
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
