"""Processes that benchmarks and tests start: `sun` commands and routers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

_LISTENING_WITHIN = 60.0


class RouterProcess(NamedTuple):
    """A router that listens.

    Attributes:
        process: its process, which may end before the context that started it.
        url: its base URL.
    """

    process: asyncio.subprocess.Process
    url: str


def sun_command(*arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command line of a `sun` command, run by `python`."""
    return [python, "-m", "sun_sglang.cli", *arguments]


def run_sun(*arguments: str, timeout: float | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a `sun` command and return its exit code and output.

    Args:
        arguments: the command's words after `sun`.
        timeout: seconds after which the command is killed; None waits forever.
        cwd: working directory; None keeps this process's.

    Raises:
        subprocess.TimeoutExpired: the command ran longer than `timeout`.
    """
    command = sun_command(*arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False)


def router_command(*arguments: str) -> list[str]:
    """Return the command line of a router; the arguments are a fleet file and options."""
    return [sys.executable, "-m", "sun_sglang.router", *arguments]


@asynccontextmanager
async def running_router(fleet: Path) -> AsyncIterator[RouterProcess]:
    """Run a router over a fleet file, beside any other router of the same workers; it ends with the context.

    Raises:
        RuntimeError: the router does not listen within a minute; the message holds its first line of output.
    """
    process = await asyncio.create_subprocess_exec(*router_command(str(fleet)), stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(_LISTENING_WITHIN):
            line = await process.stderr.readline()
        if not line.startswith(b"{") or (event := json.loads(line))["event"] != "listening":
            raise RuntimeError(f"the router does not start: {line.decode(errors='replace')}")
        draining = asyncio.create_task(process.stderr.read())
        yield RouterProcess(process, event["url"])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    await draining


def stop_process(process: subprocess.Popen[bytes], grace: float) -> None:
    """Send SIGTERM to a process, and SIGKILL if it still runs `grace` seconds later."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
