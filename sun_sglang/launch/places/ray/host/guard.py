"""The guard of one worker host: a process that kills the worker's process group once the host is gone.

    python -m sun_sglang.launch.places.ray.host.guard DIRECTORY

The kernel kills a worker's first process with its host (`processes.die_with_parent`), and Ray kills children of an
actor that ends. Neither reaches their children. The guard reads the worker's process group from a pipe; the end of the
pipe is the end of the host, however it ended. It is no child of the host, so that Ray does not kill it first.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.local.process_group import end_group, signal_group


class Guard:
    """The host's end of its guard.

    Args:
        directory: the host's own files, which the guard removes after the host's end.
    """

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "sun_sglang.launch.places.ray.host.guard", str(directory)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # it goes on in a process of its own, whose parent has ended
        self._process.wait()

    def watch(self, group: int) -> None:
        """Name the process group to kill at the host's end; 0 for none."""
        assert self._process.stdin is not None
        # a guard that was killed protects nothing; the kernel still ends the worker's first process with its host
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{group}\n".encode())
            self._process.stdin.flush()


def main(directory: Path) -> None:
    """Wait for the host's end, kill the process group that it named last, and remove its files."""
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)
    os.chdir("/")
    group = 0
    for line in sys.stdin:
        group = int(line)
    if group:
        signal_group(group, signal.SIGKILL)
        # a process that a driver holds: nothing more can be done from here
        with suppress(LaunchError):
            asyncio.run(end_group(group))
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
