"""The fork start method: the launcher's end of the fork server's socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.command import Command, inherited_environment
from sun_sglang.launch.places.local.child import Child
from sun_sglang.launch.places.local.fork_server import Event, ForkRequest
from sun_sglang.launch.places.place import RefusedError
from sun_sglang.launch.planning.hardware.gpu_inventory import VISIBLE_DEVICES
from sun_sglang.processes import tied_to_this_process


class ForkUnsafeError(LaunchError):
    """The fork server reports that a fork would not be safe on this machine."""


class ForkStart:
    """Fork workers without a GPU from one fork server, which has imported SGLang and has no visible GPU.

    Args:
        log: file for the fork server's own output.
        module: the fork server, for `python -m`.
    """

    def __init__(self, log: Path, module: str = "sun_sglang.launch.places.local.fork_server") -> None:
        self._log = log
        self._module = module
        self._ready: asyncio.Future[None] | None = None
        self._started: dict[str, asyncio.Future[int]] = {}
        self._ended: dict[str, asyncio.Future[int]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._reopening = asyncio.Lock()

    async def open(self) -> None:
        """Start the fork server. `start` may be called at once; it waits until the fork server is ready."""
        ours, theirs = socket.socketpair()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                env={**inherited_environment(os.environ), VISIBLE_DEVICES: ""},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=tied_to_this_process(),
            )
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._ready = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen(reader))

    async def start(self, command: Command) -> Child:
        """Fork one worker.

        Raises:
            ForkUnsafeError: the fork server must not fork.
            RefusedError: a hook on SGLang did not take effect.
            LaunchError: the fork server ended, or could not fork.
        """
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
        self._started[command.name], self._ended[command.name] = started, ended
        request = ForkRequest(
            name=command.name, argv=command.argv, env=command.env, threads=command.threads, log=command.log
        )
        self._writer.write(request.model_dump_json().encode() + b"\n")
        await self._writer.drain()
        return Child(await started, ended)

    async def close(self) -> None:
        """End the fork server; its workers that still run end with it."""
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
            self._receive(Event.model_validate_json(line))
        self._lose(LaunchError(f"the fork server ended; see {self._log}"))

    def _receive(self, event: Event) -> None:
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
                future.exception()  # mark it as retrieved: no task may be waiting for it
        for ended in self._ended.values():
            ended.set_result(-signal.SIGKILL)
        self._started.clear()
        self._ended.clear()
