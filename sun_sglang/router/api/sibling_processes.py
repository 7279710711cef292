"""The other processes of a router: what one client asks of one of them, all of them answer. I/O: their unix sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from sun_sglang.router.deadlines import Deadlines

SIBLING_HEADER = "X-Sun-Sibling"
_PASSED_ON = ("Authorization", "X-API-Key", "Content-Type")
# bytes of `sockaddr_un.sun_path` (linux/un.h), less the zero that ends it
_LONGEST_ADDRESS = 107


class SiblingProcesses:
    """Asks the other processes.

    Args:
        sockets: where they listen, by their number.
        deadlines: for their replies.
    """

    def __init__(self, sockets: Mapping[int, Path], deadlines: Deadlines) -> None:
        timeout = aiohttp.ClientTimeout(total=deadlines.sibling)
        self._directory: int | None = None
        self._sessions = {
            i: aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.address(path)), timeout=timeout)
            for i, path in sockets.items()
        }

    def address(self, socket: Path) -> str:
        """What to bind or connect to for a socket in the processes' directory, however deep that is.

        A path that is too long for the kernel is reached through an open descriptor of its directory.
        """
        if len(os.fsencode(socket)) <= _LONGEST_ADDRESS:
            return str(socket)
        if self._directory is None:
            self._directory = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory}/{socket.name}"

    async def broadcast(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> dict[int, bytes | None]:
        """Each process's answer; None from one that did not give any.

        Nothing where the request comes from a sibling itself.
        """
        if SIBLING_HEADER in headers:
            return {}
        # a key is ASCII, and a value that is not cannot be sent on as it came
        passed = {name: headers[name] for name in _PASSED_ON if headers.get(name, "é").isascii()}
        passed[SIBLING_HEADER] = "1"

        async def one(session: aiohttp.ClientSession) -> bytes | None:
            try:
                async with session.request(method, f"http://router{path}", data=body, headers=passed) as reply:
                    return await reply.read() if reply.status == 200 else None
            except (aiohttp.ClientError, OSError):
                return None

        answers = await asyncio.gather(*(one(session) for session in self._sessions.values()))
        return dict(zip(self._sessions, answers, strict=True))

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None
