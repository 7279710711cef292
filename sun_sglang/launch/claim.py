"""The lock that keeps a second launcher out of a run directory."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO

from sun_sglang.errors import LaunchError

_FILE = "launch.lock"


def claim(run_dir: Path) -> TextIO:
    """Lock a run directory for this process. The kernel releases the lock when the file is closed or the process ends.

    Raises:
        LaunchError: another process holds the lock.
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
