"""Workers as processes of this machine."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sun_sglang.checkpoint.module.host_copies import remove_unused, shared_directory
from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.command import Command, command_at
from sun_sglang.launch.places.local.child import LocalRunning
from sun_sglang.launch.places.local.gpu_memory import GpuMemory
from sun_sglang.launch.places.local.ports import LOOPBACK, free_ports
from sun_sglang.launch.places.local.slot import LocalSlot
from sun_sglang.launch.places.local.start_methods import (
    ForkOrPlainStart,
    MixedStart,
    PlainStart,
    StartMethod,
    StartMethodName,
    choose_start,
)
from sun_sglang.launch.places.place import Address, Needs, Running, Slot
from sun_sglang.launch.planning.hardware.machine import Machine, detect_machine
from sun_sglang.launch.planning.plan import WorkerPlan


class LocalPlace:
    """This machine. Workers listen on its loopback address and end with the process that started them.

    Args:
        logs: directory for the fork server's log.
        start: how SGLang's workers are started; None: forked, or plainly where a worker has a GPU.
        warn: called with a sentence when the place cannot start workers as it should.
        taken_ports: ports that no worker may get.
        ports: free ports, none twice; default: ports that are free when they are given.
    """

    outlives_launcher = False

    def __init__(
        self,
        logs: Path,
        start: StartMethodName | None = None,
        *,
        warn: Callable[[str], None] = lambda _: None,
        taken_ports: frozenset[int] = frozenset(),
        ports: Iterator[int] | None = None,
    ) -> None:
        self._logs = logs
        self._start_name = start
        self._warn = warn
        self._ports = (port for port in ports or free_ports() if port not in taken_ports)
        self._slots: dict[str, LocalSlot] = {}
        self._preparing = asyncio.Lock()
        self._method: StartMethod | None = None
        self._running: list[LocalRunning] = []
        self._gpu_memory: GpuMemory | None = None

    async def open(self) -> None:
        """Prepare nothing: the first start prepares what the reserved workers need."""

    async def machines(self) -> tuple[Machine, ...]:
        """Return this machine."""
        return (detect_machine(),)

    def take_port(self) -> int:
        """Return a free port that no worker gets.

        Raises:
            LaunchError: no port is free.
        """
        port = next(self._ports, None)
        if port is None:
            raise LaunchError("there are not enough free ports")
        return port

    async def reserve(self, worker: str, needs: Needs) -> Slot:
        """Choose a worker's HTTP port.

        Raises:
            LaunchError: no port is free, or the worker has a slot.
            UserError: the user chose forks, and the worker needs a GPU.
        """
        if worker in self._slots:
            raise LaunchError(f"`{worker}` has a slot already")
        choose_start(worker if needs.gpus else None, self._start_name)
        slot = LocalSlot(worker, Address(host=LOOPBACK, port=self.take_port()), needs, self._wait_for_gpus)
        self._slots[worker] = slot
        return slot

    async def start(self, slot: Slot, worker: WorkerPlan) -> Running:
        """Start a worker in its slot, with new ports for everything but HTTP.

        No decode worker then meets the bootstrap server of the start before, and no start tries a port again that
        another program took in the meantime.
        """
        own = self._slots[slot.worker]
        method = await self._prepare()
        address = _address(worker, own.address.port, self._ports)
        log_begin = own.begin_log(worker.log)
        child = await method.start(command_at(worker, address))
        running = LocalRunning(address, child, worker.log, log_begin)
        self._running = [one for one in self._running if not one.has_ended] + [running]
        return running

    async def adopt(self, workers: Iterable[WorkerPlan] = ()) -> dict[str, Running]:
        """Refuse: the kernel ends a local worker with its launcher.

        Raises:
            LaunchError: always.
        """
        raise LaunchError("workers of this machine end with their launcher, so there is none to adopt")

    async def release(self, slot: Slot) -> None:
        """Forget a slot."""
        self._slots.pop(slot.worker, None)

    async def close(self) -> None:
        """Kill the workers that still run, and end the fork server."""
        for running in self._running:
            await running.send(signal.SIGKILL)
        if self._method is not None:
            await self._method.close()
            self._method = None
        for running in self._running:
            await running.wait()
        # a worker that was killed leaves its modules in shared memory
        await asyncio.to_thread(remove_unused, shared_directory())
        self._running.clear()
        self._slots.clear()

    async def _prepare(self) -> StartMethod:
        """Return the open start method; read the GPU memory in use before the first start."""
        async with self._preparing:
            if self._method is None:
                # before the first wait: `close` clears the slots, and a GPU worker must not be forked
                method = self._make_method()
                self._gpu_memory = GpuMemory({name: slot.needs.devices for name, slot in self._slots.items()})
                await self._gpu_memory.open()
                self._method = method
                await method.open()
            return self._method

    def _make_method(self) -> StartMethod:
        on_gpu = next((name for name, slot in self._slots.items() if slot.needs.gpus), None)
        forks = choose_start(on_gpu, self._start_name) == "fork"
        sglang = ForkOrPlainStart(self._logs / "fork-server.log", self._warn) if forks else PlainStart()
        return MixedStart(forkable=sglang, others=PlainStart())

    async def _wait_for_gpus(self, worker: str) -> str:
        return "" if self._gpu_memory is None else await self._gpu_memory.wait(worker)


def example_commands(workers: Iterable[WorkerPlan]) -> tuple[Command, ...]:
    """Return complete commands as this place would start them, with ports from 30000 on; nothing is reserved."""
    ports = itertools.count(30000)
    return tuple(command_at(worker, _address(worker, next(ports), ports)) for worker in workers)


def _address(worker: WorkerPlan, port: int, ports: Iterator[int]) -> Address:
    """Return where one start of a worker listens: on its HTTP port, and on new ports for the rest.

    Raises:
        LaunchError: no port is free.
    """
    try:
        return Address(
            host=LOOPBACK,
            port=port,
            bootstrap_port=next(ports) if worker.needs_bootstrap_port else None,
            nccl_port=next(ports) if worker.needs_nccl_port else None,
        )
    except StopIteration:
        raise LaunchError("there are not enough free ports") from None
