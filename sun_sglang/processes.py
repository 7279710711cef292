"""Linux processes: tie a child to its parent, and distinguish a process from a later one with the same pid."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# loaded before a fork: a child of a process with threads must not need the loader's lock
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when the thread that started it ends.

    Args:
        parent: pid of the parent, read before the fork. A parent that has already ended would send no signal, so this
            process ends at once.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def tied_to_this_process() -> Callable[[], None]:
    """Return a `preexec_fn` after which the kernel kills the child when this process ends."""
    parent = os.getpid()
    return lambda: die_with_parent(parent)


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process in clock ticks after the machine's boot; None where it has ended.

    Raises:
        OSError: it cannot be read, for example because this process has no free descriptor.
    """
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def group_of(pid: int) -> tuple[int, int] | None:
    """Return the process group and the session of a process; None where it has ended.

    Raises:
        OSError: they cannot be read, for example because this process has no free descriptor.
    """
    fields = _stat(pid)
    return None if fields is None else (int(fields[2]), int(fields[3]))


def _stat(pid: int) -> list[str] | None:
    """Return the fields of `/proc/PID/stat` from the third one, the state, on; None where the process has ended.

    A zombie counts as ended, although its parent has not read its status: it has closed its files, and with them its
    GPU.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields
