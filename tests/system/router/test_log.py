"""A router process whose log cannot be written."""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import socket
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import orjson

from sun_sglang.bench.processes import router_command
from tests.support.ports import PORTS
from tests.support.waiting import wait_for

PATIENCE_S = 60.0


class Process:
    """A router process whose log goes somewhere."""

    def __init__(self, directory: Path, stderr: int | IO[Any]) -> None:
        self.port = next(PORTS)
        fleet = {
            "tasks": {"math": {"prefill": "p", "decode": "d"}},
            "pools": {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}},
            "workers": [],
            "router": {"port": self.port},
        }
        (directory / "fleet.json").write_bytes(orjson.dumps(fleet))
        command = router_command(str(directory / "fleet.json"))
        self.popen = subprocess.Popen(command, stderr=stderr)

    def get(self, path: str) -> tuple[int, str]:
        """Send a request once the router listens."""
        end = time.monotonic() + PATIENCE_S
        while True:
            assert self.popen.poll() is None
            with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)) as client:
                try:
                    client.request("GET", path)
                except ConnectionRefusedError:
                    assert time.monotonic() < end
                    time.sleep(0.01)
                    continue
                reply = client.getresponse()
                return reply.status, reply.read().decode()

    def garbage(self) -> None:
        """Send bytes that are not HTTP, which the router logs."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as s, suppress(ConnectionError):
            s.sendall(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
            while s.recv(1 << 16):
                pass

    def end(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(PATIENCE_S)


def test_a_full_log_disk_stops_no_answer_and_no_end(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = Process(tmp_path, full)
    try:
        assert process.get("/health")[0] == 503, "it has no workers, and says so"
        process.garbage()
        wait_for(lambda: 'sun_log_lines_lost_total{why="failed"}' in process.get("/metrics")[1])
        assert process.end() == 0
    finally:
        process.popen.kill()
        process.popen.wait()


def test_a_log_reader_that_stalls_stops_no_answer_and_no_end(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * size)  # the next write blocks until the test reads
    process = Process(tmp_path, writer)
    try:
        assert process.get("/health")[0] == 503
        for _ in range(10):
            process.garbage()
        assert process.get("/health")[0] == 503
        assert process.end() == 0
    finally:
        process.popen.kill()
        process.popen.wait()
        os.close(reader)
        os.close(writer)
