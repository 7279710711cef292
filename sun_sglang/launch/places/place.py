"""The protocols of a place: where workers run, which addresses they have, and how they are started and stopped."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from sun_sglang.errors import LaunchError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.strict import Strict


class PlaceLostError(LaunchError):
    """The place has lost the machine of a worker: it reports no exit status, and the slot's address is void."""


class Address(Strict):
    """The address at which one start of a worker listens.

    Attributes:
        host: name or IP address of its machine, as other workers and the router reach it.
        port: its HTTP port.
        bootstrap_port: where decode workers meet a prefill worker; None where the worker needs none.
        nccl_port: where the ranks of the worker meet; None where SGLang chooses.
    """

    host: str
    port: int
    bootstrap_port: int | None = None
    nccl_port: int | None = None

    @property
    def url(self) -> str:
        """URL of its HTTP server."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Needs(Strict):
    """The resources that a worker occupies while it runs.

    Attributes:
        cpus: threads of its processes.
        gpus: how many GPUs, on all of its machines together.
        devices: which GPUs (`Gpu.index`), where the plan has chosen them; else empty.
        nodes: number of machines that it spans.
    """

    cpus: int
    gpus: int = 0
    devices: tuple[int, ...] = ()
    nodes: int = 1


class Slot(Protocol):
    """The room that a place holds for one worker, over all of its starts.

    Attributes:
        worker: the worker's name.
        address: host and HTTP port of every start; no other port.
    """

    @property
    def worker(self) -> str: ...  # noqa: D102 - described above

    @property
    def address(self) -> Address: ...  # noqa: D102 - described above

    async def wait_free(self) -> None:
        """Wait until the resources of the last start (GPU memory) are free, or the place stops waiting.

        The caller may cancel this call.
        """


class Running(Protocol):
    """One start of a worker.

    Attributes:
        address: where this start listens, with all of its ports.
        pid: its process id on its machine.
    """

    @property
    def address(self) -> Address: ...  # noqa: D102 - described above

    @property
    def pid(self) -> int: ...  # noqa: D102 - described above

    async def wait(self) -> int:
        """Return the exit status of the worker's first process; negative: the number of the signal that ended it.

        Raises:
            PlaceLostError: the place has lost the machine.
        """
        ...

    async def wait_gone(self) -> None:
        """Wait until the first process has ended and no other process of this start is left; kill those that stay.

        Raises:
            LaunchError: a killed process does not end.
            PlaceLostError: the place has lost the machine.
        """

    async def send(self, number: signal.Signals) -> None:
        """Send a signal; no error where the processes of this start have ended.

        SIGKILL goes to all of them. Any other signal goes to the first process, which ends the others itself: an SGLang
        server that receives SIGTERM needs its schedulers until its running requests have ended.

        Raises:
            PlaceLostError: the place has lost the machine.
        """

    def logs(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield what this start has written so far.

        Args:
            offset: the byte of its output to begin at; negative: counted from the end.

        Raises:
            PlaceLostError: the place has lost the machine.
        """
        ...


class Place(Protocol):
    """Runs workers. A caller opens it, reserves a slot for each worker, starts workers, and closes it.

    Attributes:
        outlives_launcher: whether its workers outlive a launcher that was killed, so that a later one can adopt them.
    """

    @property
    def outlives_launcher(self) -> bool: ...  # noqa: D102 - described above

    async def open(self) -> None:
        """Connect to the place. A closed place can be opened again."""

    async def machines(self) -> tuple[Machine, ...]:
        """Return the machines that a plan may use."""
        ...

    async def reserve(self, worker: str, needs: Needs) -> Slot:
        """Hold room for one worker.

        Args:
            worker: its name, unique in the place.
            needs: what it occupies.

        Raises:
            LaunchError: no machine has this room.
            UserError: the place cannot run such a worker.
        """
        ...

    async def start(self, slot: Slot, worker: WorkerPlan) -> Running:
        """Start a worker in its slot, with a new bootstrap port and a new NCCL port for each start.

        Args:
            slot: from `reserve`; its last start has ended.
            worker: what to run.

        Raises:
            RefusedError: no start of this worker can succeed.
            LaunchError: this start failed; the next one may succeed.
            PlaceLostError: the place has lost the machine.
        """
        ...

    async def adopt(self, workers: Iterable[WorkerPlan] = ()) -> dict[str, Running]:
        """Return the workers that run since an earlier launcher as planned, by name; end all others of that launcher.

        `reserve` returns the slot of an adopted worker.

        Args:
            workers: the plans; a worker whose flags have changed since is ended.

        Raises:
            LaunchError: workers of this place end with their launcher, or the place does not answer.
        """
        ...

    async def release(self, slot: Slot) -> None:
        """Give a slot back; its worker has ended or its machine is lost."""

    async def close(self) -> None:
        """Give back all slots; workers that still run end."""


class RefusedError(LaunchError):
    """No start of a worker can succeed here: a hook on SGLang did not take effect."""


def needs_of(worker: WorkerPlan) -> Needs:
    """Return what a planned worker occupies."""
    return Needs(cpus=worker.threads, gpus=len(worker.gpus), devices=worker.gpus, nodes=worker.nodes)
