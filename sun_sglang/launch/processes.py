"""Processes that do not outlive their parent, and ports that nobody listens on."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Args:
        parent: pid of the parent, read before the fork: one that is already gone sends no signal any more.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def free_ports(host: str = "127.0.0.1") -> Iterator[int]:
    """TCP ports that are free at the time they are given; no port is given twice."""
    given: set[int] = set()
    while True:
        with socket.socket() as s:
            s.bind((host, 0))
            port = int(s.getsockname()[1])
        if port not in given:
            given.add(port)
            yield port
