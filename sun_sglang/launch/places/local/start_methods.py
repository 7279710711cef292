"""Two ways to start a worker: forked from a fork server, or as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.local.fork_server import Event, ForkRequest
from sun_sglang.launch.planning.gpu_inventory import VISIBLE
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.processes import die_with_parent
from sun_sglang.router.auth.api_keys import ENVIRONMENT
from sun_sglang.topology import Backend


class ForkUnsafeError(LaunchError):
    """The fork server found that a fork would not be safe on this machine."""


class RefusedError(LaunchError):
    """No worker can run here: a hook on SGLang did not take."""


class Running:
    """A started worker: its process, and its end."""

    def __init__(self, pid: int, ended: Awaitable[int]) -> None:
        self.pid = pid
        self._ended = asyncio.ensure_future(ended)

    async def wait(self) -> int:
        """Exit status of the process, negative for a signal."""
        return await asyncio.shield(self._ended)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if not self._ended.done():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return  # it ended just now; whoever waits for it learns so


class StartMethod(Protocol):
    """Starts workers."""

    async def open(self) -> None:
        """Get ready to start workers."""

    async def start(self, worker: WorkerPlan) -> Running:
        """Start one worker."""

    async def close(self) -> None:
        """Give back what `open` took; workers still running end with it."""


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What workers inherit: everything but the keys of the router's clients."""
    return {name: value for name, value in environ.items() if name != ENVIRONMENT}


def with_parent() -> Callable[[], None]:
    """A `preexec_fn` that ties a child to this process."""
    parent = os.getpid()
    return lambda: die_with_parent(parent)


_MODULES: dict[Backend, str] = {"sglang": "sun_sglang.worker.server", "emulated": "sun_sglang.emulator.worker"}


class PlainStart:
    """Each worker is a process of its own; one of SGLang imports it for itself and again in its schedulers."""

    async def open(self) -> None:
        """Nothing to prepare."""

    async def start(self, worker: WorkerPlan) -> Running:
        """Start one worker in a new process group."""
        with worker.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                _MODULES[worker.backend],
                *worker.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**worker_environment(os.environ), **worker.env},
                process_group=0,
                preexec_fn=with_parent(),
            )
        return Running(process.pid, process.wait())

    async def close(self) -> None:
        """Nothing to give back."""


class ForkStart:
    """Workers without a GPU are forked from one fork server, which has SGLang imported and CUDA hidden from it.

    Args:
        log: where the fork server's own output goes.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._ready: asyncio.Future[None] | None = None
        self._started: dict[str, asyncio.Future[int]] = {}
        self._ended: dict[str, asyncio.Future[int]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._reopening = asyncio.Lock()

    async def open(self) -> None:
        """Start the fork server; workers can be asked for at once and are forked when it is ready."""
        ours, theirs = socket.socketpair()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sun_sglang.launch.places.local.fork_server",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                env={**worker_environment(os.environ), VISIBLE: ""},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=with_parent(),
            )
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._ready = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen(reader))

    async def start(self, worker: WorkerPlan) -> Running:
        """Fork one worker.

        Raises:
            ForkUnsafeError: the fork server found that it must not fork.
            RefusedError: a hook on SGLang did not take.
            LaunchError: the fork server ended, or could not fork.
        """
        assert not worker.gpus, "a process that has used CUDA cannot fork one that uses it"
        async with self._reopening:
            if self._listening is None or self._listening.done():
                await self.close()
                await self.open()
        assert self._ready is not None
        await asyncio.shield(self._ready)
        if self._writer is None:
            raise LaunchError("the fork server was closed before it forked the worker")
        loop = asyncio.get_running_loop()
        started, ended = loop.create_future(), loop.create_future()
        self._started[worker.name], self._ended[worker.name] = started, ended
        request = ForkRequest(
            name=worker.name, argv=worker.argv, env=worker.env, threads=worker.threads, log=worker.log
        )
        self._writer.write(request.model_dump_json().encode() + b"\n")
        await self._writer.drain()
        return Running(await started, ended)

    async def close(self) -> None:
        """End the fork server and, with it, what is left of its workers."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None:
            await self._process.wait()
            self._process = None
        if self._listening is not None:
            await self._listening
            self._listening = None
        self._ready = None

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._take(Event.model_validate_json(line))
        self._lose(LaunchError(f"the fork server ended; see {self._log}"))

    def _take(self, event: Event) -> None:
        assert self._ready is not None
        match event.kind:
            case "ready":
                self._ready.set_result(None)
            case "unsafe":
                self._ready.set_exception(ForkUnsafeError(event.detail))
            case "refused":
                self._ready.set_exception(RefusedError(event.detail))
            case "started":
                self._started.pop(event.name).set_result(event.pid)
            case "fork_failed":
                del self._ended[event.name]
                self._started.pop(event.name).set_exception(LaunchError(event.detail))
            case "exited":
                self._ended.pop(event.name).set_result(event.status)

    def _lose(self, error: LaunchError) -> None:
        assert self._ready is not None
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._started.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting, and that is no error
        for ended in self._ended.values():
            ended.set_result(-signal.SIGKILL)
        self._started.clear()
        self._ended.clear()


class ForkOrPlainStart:
    """Forks, and goes over to plain starts where the fork server finds that it must not fork.

    Args:
        log: where the fork server's own output goes.
        warn: called once, with a sentence, when it goes over.
    """

    def __init__(self, log: Path, warn: Callable[[str], None]) -> None:
        self._method: StartMethod = ForkStart(log)
        self._warn = warn

    async def open(self) -> None:
        """Start the fork server."""
        await self._method.open()

    async def start(self, worker: WorkerPlan) -> Running:
        """Start one worker."""
        try:
            return await self._method.start(worker)
        except ForkUnsafeError as e:
            await self._go_over(str(e))
            return await self._method.start(worker)

    async def close(self) -> None:
        """Give back what is open."""
        await self._method.close()

    async def _go_over(self, reason: str) -> None:
        if not isinstance(self._method, PlainStart):
            forking, self._method = self._method, PlainStart()
            self._warn(f"Workers are started one by one instead of forked: {reason}.")
            await forking.close()


class BackendStart:
    """Gives SGLang's workers to one start method and emulated ones to another; opens only what the plan needs.

    Args:
        workers: all that will be asked for.
        sglang: starts SGLang's.
        emulated: starts the others.
    """

    def __init__(self, workers: Iterable[WorkerPlan], *, sglang: StartMethod, emulated: StartMethod) -> None:
        self._methods: dict[Backend, StartMethod] = {"sglang": sglang, "emulated": emulated}
        self._used: list[Backend] = sorted({worker.backend for worker in workers})

    async def open(self) -> None:
        """Open the start methods that are needed."""
        for backend in self._used:
            await self._methods[backend].open()

    async def start(self, worker: WorkerPlan) -> Running:
        """Start one worker."""
        return await self._methods[worker.backend].start(worker)

    async def close(self) -> None:
        """Close them."""
        for backend in self._used:
            await self._methods[backend].close()
