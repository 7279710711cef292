"""The other processes of a router: what one client asks of one of them, all of them answer. I/O: their unix sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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

    async def ask(
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


def merge_tasks(own: dict[str, Any], others: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """`/tasks` of all processes: ready when all of them are, with all that any of them has in flight or not proven."""
    merged = {**own, "tasks": {name: dict(task) for name, task in own["tasks"].items()}}
    for other in others:
        merged["ready"] = merged["ready"] and other is not None and other["ready"]
        for name, task in (other or {"tasks": {}})["tasks"].items():
            mine = merged["tasks"].get(name)
            if mine is not None:
                mine["ready"] = mine["ready"] and task["ready"]
                mine["in_flight"] += task["in_flight"]
                mine["queued"] += task["queued"]
                known = mine["unproven_paths"]
                mine["unproven_paths"] = known + [p for p in task["unproven_paths"] if p not in known]
    return merged


def merge_metrics(pages: Mapping[int, bytes]) -> bytes:
    """Prometheus pages of several processes as one: every sample gets the label `process`."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for process, page in pages.items():
        samples: list[str] = []
        for line in page.decode().splitlines():
            if line.startswith("# HELP "):
                head, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
                if not head:
                    head.append(line)
            elif line.startswith("# TYPE "):
                if len(head) == 1:
                    head.append(line)
            elif line:
                samples.append(_labelled(line, process))
    lines = [line for head, samples in families.values() for line in (*head, *samples)]
    return ("\n".join(lines) + "\n").encode()


def _labelled(sample: str, process: int) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{process="{process}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{process="{process}"}} {value}'
