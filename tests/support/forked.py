"""Processes of emulated workers and routers, forked from one that has imported what they need.

A process of its own takes a second of CPU time for its imports, and a test of faults starts five.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import psutil

from sun_sglang.bench.polling import INTERVAL

Program = Literal["sun_sglang.emulator.worker", "sun_sglang.router"]
_CHILD = Path(__file__).with_name("forked_child.py")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["sun_sglang.emulator.worker", "sun_sglang.router.__main__", "uvloop"])


class ForkedProcess:
    """A process, with the part of the interface of `subprocess.Popen` that tests use.

    Args:
        program: runs as `python -m PROGRAM` would.
        arguments: its command line.
        log: file to which its output is appended.
        environment: variables that it has besides this process's.
        descriptors: most files that it may have open; None for this process's limit.
    """

    def __init__(
        self,
        program: Program,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        descriptors: int | None = None,
    ) -> None:
        # a test may have changed the environment since the first of these processes
        variables = {**os.environ, **(environment or {})}
        given = (program, list(arguments), str(log), variables, descriptors)
        # by its path: the child cannot import a package of tests
        self._process = _CONTEXT.Process(target=runpy.run_path, args=(str(_CHILD), {"GIVEN": given}))
        self._process.start()

    @property
    def pid(self) -> int:
        """Its id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit status; None while it runs. A signal that ended it is a negative number."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Wait for its end, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        self._process.join(timeout)
        if (status := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def pause(self, timeout: float) -> None:
        """Stop it, and wait until it has stopped.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        self.send_signal(signal.SIGSTOP)
        end = time.monotonic() + timeout
        while psutil.Process(self.pid).status() != psutil.STATUS_STOPPED:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self._process.name, timeout)
            time.sleep(INTERVAL)

    def kill(self) -> None:
        """Send it SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)
