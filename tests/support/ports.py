"""Ports for processes that are started with one: none is given twice, or taken by anybody else before it is used."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator

from sun_sglang.launch.places.local.ports import free_ports

# descriptors are bounded, and no test uses as many ports
_HELD = 100


def held_ports() -> Iterator[int]:
    """Free ports, which are held.

    A socket that is bound and does not listen keeps everybody off a port but those who set SO_REUSEADDR, as servers do.
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
