"""Connections between processes: wait until one process has seen the end of another."""

from __future__ import annotations

import os
import select
import signal

import psutil

from tests.support.waiting import WITHIN, wait_for


def kill(pid: int, port: int, client: int) -> None:
    """Kill a server, and wait until its client has closed all connections to it.

    A dying process still accepts connections, and the client may have an idle connection whose end it has not read. A
    request that is lost with either is not repeated: it may be the cause of the death.

    Args:
        pid: the server.
        port: the port at which it serves.
        client: pid of the process that will send the next request.
    """
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], WITHIN)[0], f"process {pid} survived SIGKILL"
    finally:
        os.close(descriptor)
    # those of this process: the launcher may start the next one at the same port
    left = connections_to(port, client)
    wait_for(lambda: not left & connections_to(port, client))


def connections_to(port: int, pid: int) -> set[int]:
    """Return the local ports of the connections that a process and its children have to a port."""
    process = psutil.Process(pid)
    return {
        connection.laddr.port
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections("tcp")
        if connection.raddr and connection.raddr.port == port
    }
