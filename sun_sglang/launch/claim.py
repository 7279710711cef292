"""One launcher at a time in a deployment's directory."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO

from sun_sglang.errors import LaunchError

_FILE = "launch.lock"


def claim(run_dir: Path) -> TextIO:
    """Take a directory for this process; the kernel gives it back when the file is closed or the process ends.

    Raises:
        LaunchError: another process has it.
    """
    file = (run_dir / _FILE).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        file.close()
        raise LaunchError(
            f"another `sun launch` uses {run_dir}; `sun stop --run-dir {run_dir}` ends it, or give another --run-dir"
        ) from e
    return file
