"""The actor that runs one worker (or one rank of it) on its machine: ports, the process, its signals and its output."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sun_sglang.launch.places.command import command_at, inherited_environment
from sun_sglang.launch.places.local.child import Child, LocalRunning, log_size
from sun_sglang.launch.places.place import Address, RefusedError
from sun_sglang.launch.places.ray.host.guard import Guard
from sun_sglang.launch.places.ray.host.node_ports import NodePorts
from sun_sglang.launch.planning.hardware.gpu_inventory import VISIBLE_DEVICES
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.processes import die_with_parent, tied_to_this_process
from sun_sglang.strict import Strict

_CHUNK_BYTES = 1 << 16
_LOOK_S = 0.2


class HostState(Strict):
    """What a host reports about itself.

    Attributes:
        worker: the worker's name.
        rank: the number of its machine among those of the worker, from 0.
        ranks: number of machines of the worker.
        address: host and HTTP port of all starts.
        pid: process id of the host.
        group: Ray's id of its placement group.
        start: the present start; None before the first one.
        plan: the fingerprint of what it runs; empty before the first start.
    """

    worker: str
    rank: int
    ranks: int
    address: Address
    pid: int
    group: str
    start: StartState | None = None
    plan: str = ""


class StartState(Strict):
    """One start.

    Attributes:
        number: its number on this host, from 1.
        address: where it listens.
        pid: process id of its first process.
        has_ended: whether the first process has ended.
    """

    number: int
    address: Address
    pid: int
    has_ended: bool = False


class WorkerHost:
    """Run one worker. A detached actor, so that the worker outlives the launcher; Ray never starts it again.

    Args:
        worker: the worker's name.
        rank: the number of this machine among those of the worker.
        ranks: number of machines of the worker.
    """

    def __init__(self, worker: str, rank: int = 0, ranks: int = 1) -> None:
        self._worker = worker
        self._rank = rank
        self._ranks = ranks
        self._host = ""
        self._port = 0
        self._plan = ""
        self._number = 0
        self._running: LocalRunning | None = None

    async def open(self) -> HostState:
        """Take an HTTP port and start the guard; return the state."""
        if not self._host:
            import ray

            # Ray's own check takes seconds, and misses a raylet that ended and whose parent has not read its status
            die_with_parent(os.getppid())
            take_usual_priority()
            self._directory = Path(tempfile.mkdtemp(prefix=f"sun-sglang-{self._worker}-"))
            self._log = self._directory / "worker.log"
            self._guard = await asyncio.to_thread(Guard, self._directory)
            host = ray.util.get_node_ip_address()
            self._ports = NodePorts(host)
            self._port = self._ports.take()
            self._host = host
        return await self.state()

    async def state(self) -> HostState:
        """Return what this host runs."""
        import ray

        group = ray.util.get_current_placement_group()
        running = self._running
        return HostState(
            worker=self._worker,
            rank=self._rank,
            ranks=self._ranks,
            address=Address(host=self._host, port=self._port),
            pid=os.getpid(),
            group=group.id.hex() if group is not None else "",
            start=None if running is None else self._start_state(running),
            plan=self._plan,
        )

    async def choose_meeting(self) -> str:
        """Return an address where the ranks of one start meet: this machine and a port that nobody else gets."""
        self._meeting_port = self._ports.take()
        return f"{self._host}:{self._meeting_port}"

    async def start(self, worker: WorkerPlan, plan: str, paths: tuple[str, ...], meeting: str = "") -> StartState:
        """Start the worker; its last start has ended.

        Args:
            worker: what to run.
            plan: its fingerprint.
            paths: files and directories that it reads.
            meeting: where the ranks of a worker on several machines meet.

        Raises:
            RefusedError: this machine lacks one of the paths.
            LaunchError: no port is free.
        """
        absent = await asyncio.to_thread(_absent, paths)
        if absent:
            raise RefusedError(
                f"`{self._worker}` cannot run on machine {self._host}: {', '.join(absent)} is not there; copy it to "
                "the same path on every machine of the cluster, mount it there, or name a model by its Hugging Face id"
            )
        if self._running is not None:
            self._ports.give_back((self._running.address.bootstrap_port, self._running.address.nccl_port))
        address = Address(
            host=self._host,
            port=self._port,
            bootstrap_port=self._ports.take() if worker.needs_bootstrap_port else None,
            nccl_port=self._ports.take() if worker.needs_nccl_port and not meeting else None,
        )
        ranks = ("--node-rank", str(self._rank), "--dist-init-addr", meeting) if meeting else ()
        command = command_at(worker.model_copy(update={"log": self._log}), address)
        self._log_begin = log_size(self._log)
        environment = worker_environment(os.environ, command.env, _assigned_gpus() if worker.gpus else ())
        process = _spawn([sys.executable, "-m", command.module, *command.argv, *ranks], environment, self._log)
        self._guard.watch(process.pid)
        self._number += 1
        self._plan = plan
        self._running = LocalRunning(address, Child(process.pid, _exit_status(process)), self._log, self._log_begin)
        return StartState(number=self._number, address=address, pid=process.pid)

    async def wait(self, number: int) -> int:
        """Return the exit status of a start's first process."""
        return await self._start(number).wait()

    async def wait_gone(self, number: int) -> None:
        """Wait until no process of a start is left.

        Raises:
            LaunchError: a killed process does not end.
        """
        await self._start(number).wait_gone()
        self._guard.watch(0)

    async def send(self, number: int, signal_number: int) -> None:
        """Send a signal to a start, as `Running.send` does."""
        await self._start(number).send(signal.Signals(signal_number))

    async def output_size(self, number: int) -> int:
        """Return how many bytes a start has written so far."""
        self._start(number)
        return log_size(self._log) - self._log_begin

    async def read_start(self, number: int, offset: int) -> bytes:
        """Return up to 64 KiB of a start's output, from a byte of it on."""
        self._start(number)
        return await asyncio.to_thread(_read, self._log, self._log_begin + offset)

    async def read_log(self, offset: int, patience: float) -> bytes:
        """Return up to 64 KiB of the output of all starts; empty where none comes within `patience` seconds."""
        deadline = asyncio.get_running_loop().time() + patience
        # the worker writes the file itself: nothing tells this process
        while log_size(self._log) <= offset and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        return await asyncio.to_thread(_read, self._log, offset)

    async def end(self) -> None:
        """Kill what runs, and remove the files of this host."""
        if self._running is not None:
            await self._running.send(signal.SIGKILL)
            await self._running.wait_gone()
            self._guard.watch(0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start_state(self, running: LocalRunning) -> StartState:
        return StartState(number=self._number, address=running.address, pid=running.pid, has_ended=running.has_ended)

    def _start(self, number: int) -> LocalRunning:
        assert self._running is not None
        assert number == self._number, "a start is waited for before the next one begins"
        return self._running


def running_starts(states: Sequence[HostState], plan: str) -> tuple[StartState, ...] | None:
    """Return the present starts of a worker's hosts, by rank; None unless all of them run, and run this plan.

    Args:
        states: the states of those hosts that were found, by rank.
        plan: the fingerprint of the plan.
    """
    starts = [state.start for state in states if state.start and not state.start.has_ended and state.plan == plan]
    return tuple(starts) if len(starts) == states[0].ranks else None


def worker_environment(environ: Mapping[str, str], own: Mapping[str, str], gpus: tuple[str, ...]) -> dict[str, str]:
    """Return the environment of a worker on a machine of the cluster.

    Args:
        environ: the actor's environment, which is that of `ray start` and Ray's own variables.
        own: the variables of the worker's plan; they win.
        gpus: the GPUs that Ray has assigned to the actor, in place of the plan's.
    """
    inherited = {name: value for name, value in inherited_environment(environ).items() if not name.startswith("RAY_")}
    return {**inherited, **own, **({VISIBLE_DEVICES: ",".join(gpus)} if gpus else {})}


def take_usual_priority() -> None:
    """Undo the low priority that Ray gives its actors, for this thread and the processes that it starts.

    Without the privilege for it (root's, or a limit of `nice`) the priority stays: `RAY_worker_niceness=0 ray start`.
    """
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def _absent(paths: tuple[str, ...]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _spawn(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a new process group, which the kernel kills when the thread that calls this ends."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            process_group=0,
            preexec_fn=tied_to_this_process(),
        )


def _assigned_gpus() -> tuple[str, ...]:
    import ray

    return tuple(str(gpu) for gpu in ray.get_gpu_ids())


def _exit_status(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Return a future of a process's exit status.

    A thread of its own waits: Ray's event loop may be uvloop's, which watches children from the main thread alone. The
    thread does not keep the actor from ending.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def wait() -> None:
        status = process.wait()
        loop.call_soon_threadsafe(ended.set_result, status)

    threading.Thread(target=wait, daemon=True).start()
    return ended


def _read(log: Path, offset: int) -> bytes:
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(offset)
        return file.read(_CHUNK_BYTES)


HostState.model_rebuild()
