"""The start methods of this machine: a new process that imports SGLang, or a fork of one that has imported it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from sun_sglang.errors import UserError
from sun_sglang.launch.places.command import Command, inherited_environment
from sun_sglang.launch.places.local.child import Child
from sun_sglang.launch.places.local.fork_start import ForkStart, ForkUnsafeError
from sun_sglang.processes import tied_to_this_process

StartMethodName = Literal["fork", "plain"]


class StartMethod(Protocol):
    """Starts workers."""

    async def open(self) -> None:
        """Prepare to start workers."""

    async def start(self, command: Command) -> Child:
        """Start one worker."""
        ...

    async def close(self) -> None:
        """Give back what `open` took; workers that still run end with it."""


class PlainStart:
    """Start each worker in a process of its own, which imports SGLang; its schedulers import it again."""

    async def open(self) -> None:
        """Prepare nothing."""

    async def start(self, command: Command) -> Child:
        """Start one worker in a new process group."""
        with command.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                command.module,
                *command.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited_environment(os.environ), **command.env},
                process_group=0,
                preexec_fn=tied_to_this_process(),
            )
        return Child(process.pid, process.wait())

    async def close(self) -> None:
        """Give back nothing."""


class ForkOrPlainStart:
    """Fork, and change to plain starts once the fork server reports that it must not fork.

    Args:
        log: file for the fork server's own output.
        warn: called once, with a sentence, at the change.
    """

    def __init__(self, log: Path, warn: Callable[[str], None]) -> None:
        self._method: StartMethod = ForkStart(log)
        self._warn = warn

    async def open(self) -> None:
        """Start the fork server."""
        await self._method.open()

    async def start(self, command: Command) -> Child:
        """Start one worker."""
        try:
            return await self._method.start(command)
        except ForkUnsafeError as e:
            await self._change_to_plain(str(e))
            return await self._method.start(command)

    async def close(self) -> None:
        """Close the method in use."""
        await self._method.close()

    async def _change_to_plain(self, reason: str) -> None:
        if not isinstance(self._method, PlainStart):
            forking, self._method = self._method, PlainStart()
            self._warn(f"Workers are started one by one instead of forked: {reason}.")
            await forking.close()


class MixedStart:
    """Start forkable workers by one method and all others by another; open a method before its first start.

    Args:
        forkable: starts the workers that may be forked.
        others: starts all other workers.
    """

    def __init__(self, *, forkable: StartMethod, others: StartMethod) -> None:
        self._methods = {True: forkable, False: others}
        self._opened: list[bool] = []
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Prepare nothing: `start` opens a method when it is needed."""

    async def start(self, command: Command) -> Child:
        """Start one worker."""
        async with self._opening:
            if command.forkable not in self._opened:
                await self._methods[command.forkable].open()
                self._opened.append(command.forkable)
        return await self._methods[command.forkable].start(command)

    async def close(self) -> None:
        """Close the methods that are open."""
        while self._opened:
            await self._methods[self._opened.pop()].close()


def choose_start(first_on_gpu: str | None, asked: StartMethodName | None) -> StartMethodName:
    """Return the start method of a deployment's workers: the user's choice, else plain if one has a GPU, else fork.

    A worker on a GPU is never forked: SGLang may use CUDA while it is imported and while it resolves a model's
    arguments, and it binds a scheduler to a NUMA node only if `spawn` made it.

    Args:
        first_on_gpu: the name of a worker that has a GPU; None if none has.
        asked: the user's choice.

    Raises:
        UserError: the user asked for forks, and a worker has a GPU.
    """
    if first_on_gpu is not None and asked == "fork":
        raise UserError(
            f"--start fork: `{first_on_gpu}` runs on a GPU, and SGLang uses CUDA before it could be forked; leave "
            "`--start` out"
        )
    return asked or ("plain" if first_on_gpu is not None else "fork")
