"""The sockets on which the processes of a worker listen, for the page on places."""

from __future__ import annotations

import psutil


def listening_sockets(pid: int) -> list[str]:
    """Return `ADDRESS:PORT PROCESS` of every TCP socket on which a worker's processes listen, in order.

    Args:
        pid: the worker's first process; its descendants are read, too.
    """
    first = psutil.Process(pid)
    found = set()
    for process in (first, *first.children(recursive=True)):
        for connection in process.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN:
                name = "server" if process.pid == pid else " ".join(process.cmdline())[:40]
                found.add(f"{connection.laddr.ip}:{connection.laddr.port} {name}")
    return sorted(found)
