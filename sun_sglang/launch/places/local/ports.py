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
