"""Free ports of a machine, none given to two worker hosts."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.local.ports import free_ports


class NodePorts:
    """The ports that one worker host has taken.

    A worker opens its ports seconds after they were chosen. A locked file for each port keeps the hosts of other
    workers from choosing it meanwhile; the kernel unlocks it when the host ends.

    Args:
        host: the address on which a port must be free.
        directory: the directory of the files, the same for all hosts of the machine; None for the usual one.
    """

    def __init__(self, host: str, directory: Path | None = None) -> None:
        self._directory = directory or Path(tempfile.gettempdir()) / f"sun-sglang-ports-{os.getuid()}"
        self._free = free_ports(host)
        self._locks: dict[int, int] = {}

    def take(self) -> int:
        """Return a free port that no other host gets until `give_back`.

        Raises:
            LaunchError: no port is free.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for port in self._free:
            lock = os.open(self._directory / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self._locks[port] = lock
            return port
        raise LaunchError("there are not enough free ports")

    def give_back(self, ports: Iterable[int | None]) -> None:
        """Let other hosts take some ports; None and unknown ones are ignored."""
        for port in ports:
            if port in self._locks:
                os.close(self._locks.pop(port))
