"""Processes that do not outlive their parent, and ports that nobody listens on."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 20000


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Args:
        parent: pid of the parent, read before the fork: one that is already gone sends no signal any more.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def created(pid: int) -> int | None:
    """Return when a process was created, in clock ticks after the machine's start; None where it has ended."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def group_of(pid: int) -> tuple[int, int] | None:
    """Return the process group and the session of a process; None where it has ended."""
    fields = _stat(pid)
    return None if fields is None else (int(fields[2]), int(fields[3]))


def _stat(pid: int) -> list[str] | None:
    """Return a process's fields in `/proc/PID/stat`, from the third one on, its state; None where it has ended.

    A zombie has ended, although nobody has asked for its status: it has closed its files, and with them its GPU.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields


def free_ports(host: str = "127.0.0.1", rng: random.Random | None = None) -> Iterator[int]:
    """TCP ports that are free at the time they are given; no port is given twice.

    They lie below the range from which the kernel takes the near end of outgoing connections: a port from within could
    be taken between the plan and the worker's start.

    Args:
        host: address to try them on.
        rng: where to begin; two launches at once are not to try the same ports.
    """
    candidates = list(range(_LOWEST_PORT, _first_ephemeral()))
    (rng or random.Random()).shuffle(candidates)
    for port in candidates:
        with socket.socket() as s:
            try:
                s.bind((host, port))
            except OSError:
                continue
        yield port


def _first_ephemeral() -> int:
    """First port of the kernel's range; where that leaves too few below it, they have to be shared."""
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    return first if first > _LOWEST_PORT + 1000 else 61000
