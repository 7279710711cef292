"""The other processes of this router: a request to one process is passed on to all of them. I/O: unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from sun_sglang.files.socket_directory import SocketDirectory
from sun_sglang.router.deadlines import Deadlines

SIBLING_HEADER = "X-Sun-Sibling"
_PASSED_ON = ("Authorization", "X-API-Key", "Content-Type")


def socket_path(fleet_file: Path, process: int) -> Path:
    """Return the unix socket of one process: it lies beside the fleet file."""
    return fleet_file.with_name(f"router-{process}.sock")


class SiblingProcesses:
    """Sends requests to the other processes.

    Args:
        fleet_file: the file that all processes serve; None for a router without one, which has no siblings.
        process: the number of this process, from 0.
        processes: how many processes the router has.
        deadlines: the limit for their replies.
    """

    def __init__(self, fleet_file: Path | None, process: int, processes: int, deadlines: Deadlines) -> None:
        timeout = aiohttp.ClientTimeout(total=deadlines.sibling)
        others = [i for i in range(processes) if i != process] if fleet_file is not None else []
        # a router without a file has no socket
        self._directory = SocketDirectory(fleet_file.parent if fleet_file is not None else Path())
        self._sessions: dict[int, aiohttp.ClientSession] = {}
        for i in others:
            assert fleet_file is not None
            connector = aiohttp.UnixConnector(self.address(socket_path(fleet_file, i)))
            self._sessions[i] = aiohttp.ClientSession(connector=connector, timeout=timeout)

    def address(self, socket: Path) -> str:
        """Return the address to bind or to connect to for a socket in the processes' directory."""
        return self._directory.address(socket.name)

    async def broadcast(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> dict[int, bytes | None]:
        """Send a client's request to every other process.

        Args:
            method: HTTP method.
            path: path of the request.
            headers: the client's headers; those with its key and the content type are passed on.
            body: the client's body.

        Returns:
            The body of each process's response by the number of the process; None for a process that did not answer
            with 200. Empty for a request that comes from a sibling.
        """
        if SIBLING_HEADER in headers:
            return {}
        # every key is ASCII, and aiohttp cannot send other values as they came
        passed = {name: headers[name] for name in _PASSED_ON if headers.get(name, "é").isascii()}
        passed[SIBLING_HEADER] = "1"

        async def send(session: aiohttp.ClientSession) -> bytes | None:
            try:
                async with session.request(method, f"http://router{path}", data=body, headers=passed) as reply:
                    return await reply.read() if reply.status == 200 else None
            except (aiohttp.ClientError, OSError):
                return None

        replies = await asyncio.gather(*(send(session) for session in self._sessions.values()))
        return dict(zip(self._sessions, replies, strict=True))

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
        self._directory.close()
