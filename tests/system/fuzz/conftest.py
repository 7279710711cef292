from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.system.faults.cluster import Cluster, Worker

HOST = "127.0.0.1"
# of one answer; an answer that never comes is a failure, and so is a connection that stays open without one
PATIENCE_S = 120.0
PAUSE_S = 0.05
ROLES = {"math": "prefill", "base": "decode"}


class Target:
    """A router before two emulated workers; the test sends it raw bytes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def send(self, raw: bytes) -> list[int]:
        """Return the statuses of all answers to raw bytes; none if the router only closed the connection."""
        return statuses(provoke(self._cluster.port, raw))

    def exchange(self, raw: bytes) -> list[int]:
        """Send a whole request that closes its connection; return as `send`."""
        with socket.create_connection((HOST, self._cluster.port), timeout=PATIENCE_S) as s:
            with suppress(ConnectionError):
                s.sendall(raw)  # it may answer and hang up before it has read everything
            return statuses(receive_all(s))

    def post(self, path: str, body: bytes, *headers: tuple[str, str]) -> int:
        """Return the status of a well-framed request."""
        lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers or (("Content-Type", "application/json"),)]
        got = self.exchange("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        assert len(got) == 1, got
        return got[0]

    def check_alive(self) -> None:
        """Assert that every process runs, the router logged no defect of its own, and requests are answered."""
        assert self._cluster.router.poll() is None
        assert all(worker.alive for worker in self._cluster.workers.values())
        assert "defect" not in self._cluster.log
        body = {"model": "math", "input_ids": [1, 2], "sampling_params": {"max_new_tokens": 2}}
        assert self.post("/generate", json.dumps(body).encode()) == 200


def provoke(port: int, raw: bytes, pause: float = PAUSE_S) -> bytes:
    """Return all bytes that the router sends in reply to raw bytes.

    A request that never ends is not answered before its sender has left, so the sending side is closed once nothing has
    come for `pause` seconds. A router that is slower than that may then find that its client left and send nothing.
    """
    with socket.create_connection((HOST, port), timeout=PATIENCE_S) as s:
        with suppress(ConnectionError):
            s.sendall(raw)  # it may answer and hang up before it has read everything
        received = b""
        with suppress(ConnectionError):
            s.settimeout(pause)
            try:
                while data := s.recv(1 << 16):
                    received += data
                return received
            except TimeoutError:
                s.settimeout(PATIENCE_S)
            s.shutdown(socket.SHUT_WR)
            received += receive_all(s)
    return received


def receive_all(s: socket.socket) -> bytes:
    """Return all bytes up to the end of the connection."""
    received = b""
    with suppress(ConnectionError):
        while data := s.recv(1 << 16):
            received += data
    return received


def statuses(received: bytes) -> list[int]:
    """Return the statuses in the received bytes. An error may quote the sent bytes, with escaped line ends."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", received)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("fuzz")
    # requests that the fuzzer makes valid by chance may ask for long answers
    flags = {"context_length": 4096}
    workers = {
        f"{pool}-0": Worker(f"{pool}-0", role, f"none/{pool}", directory, flags, {}) for pool, role in ROLES.items()
    }
    fleet = {
        "tasks": {"math": {"prefill": "math", "decode": "base"}},
        "pools": {pool: {"role": role, "model": pool} for pool, role in ROLES.items()},
        "workers": [{"name": n, "pool": n[:-2], "url": w.url} for n, w in workers.items()],
        "router": {"probe_interval": 0.1, "max_body_mb": 1, "first_token_timeout": 60, "idle_timeout": 60},
    }
    for worker in workers.values():
        worker.start()
    cluster = asyncio.run(begin(directory, fleet, workers))
    try:
        yield Target(cluster)
    finally:
        cluster.end_processes()


async def begin(directory: Path, fleet: dict[str, Any], workers: dict[str, Worker], key: str | None = None) -> Cluster:
    """Start a cluster and wait until it is ready; its requests carry `key`, if given. Its client is closed again."""
    cluster = Cluster(directory, fleet, workers)
    if key is not None:
        cluster.client.headers["X-API-Key"] = key
    cluster.start_router()
    try:
        await cluster.ready()
    except BaseException:
        cluster.end_processes()
        raise
    finally:
        await cluster.client.close()
    return cluster
