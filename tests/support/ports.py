"""Ports for processes that are started with a port: none is returned twice, and no other process takes one first."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator

from sun_sglang.launch.places.local.ports import free_ports

# the number of open files is bounded, and no test uses as many ports
_HELD = 100


def held_ports() -> Iterator[int]:
    """Yield free ports, each of which a bound socket reserves.

    A bound socket that does not listen keeps other processes off its port, except those that set SO_REUSEADDR, as
    servers do.
    """
    held: deque[int] = deque()
    for port in free_ports():
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            held.append(s.detach())
        if len(held) > _HELD:
            os.close(held.popleft())
        yield port


PORTS = held_ports()
