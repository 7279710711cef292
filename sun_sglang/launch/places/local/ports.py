"""Free TCP ports of this machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOOPBACK = "127.0.0.1"
_LOWEST_PORT = 20000


def free_ports(host: str = LOOPBACK, rng: random.Random | None = None) -> Iterator[int]:
    """Yield TCP ports that are free when they are yielded, none twice.

    They lie below the range from which the kernel takes local ports of outgoing connections: a port of that range could
    be taken between the reservation and the worker's start.

    Args:
        host: the address on which a port must be free.
        rng: shuffles the ports, so that two launches at the same time try different ones.
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
    """Return the first port of the kernel's range, or 61000 where that leaves fewer than 1000 ports below it."""
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    return first if first > _LOWEST_PORT + 1000 else 61000
