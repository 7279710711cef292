"""The load balancers that are compared: how each is started over two workers, and what it uses."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil

from sun_sglang.bench.router_load import request
from sun_sglang.errors import UserError
from sun_sglang.launch.processes import free_ports

START_S = 60.0


class PeerError(UserError):
    """A load balancer cannot be started; the message says which and why."""


class Ports(NamedTuple):
    """Where the workers and the load balancer listen."""

    prefill: int
    decode: int
    balancer: int
    metrics: int


class Running(NamedTuple):
    """A process with all that it started."""

    process: psutil.Process

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        times = [p.cpu_times() for p in self._all()]
        return sum(t.user + t.system for t in times)

    def memory(self) -> float:
        """MiB that would be free without it (USS)."""
        return float(sum(p.memory_full_info().uss for p in self._all())) / 2**20

    def _all(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def sun(ports: Ports, directory: Path) -> list[str]:
    """This project's router."""
    fleet = {
        "tasks": {"bench": {"prefill": "p", "decode": "d"}},
        "pools": {"p": {"role": "prefill", "model": "none"}, "d": {"role": "decode", "model": "none"}},
        "workers": [
            {"name": "p-0", "pool": "p", "url": f"http://127.0.0.1:{ports.prefill}"},
            {"name": "d-0", "pool": "d", "url": f"http://127.0.0.1:{ports.decode}"},
        ],
        "router": {"port": ports.balancer},
    }
    file = directory / f"fleet-{ports.balancer}.json"
    file.write_bytes(orjson.dumps(fleet))
    return [sys.executable, "-m", "sun_sglang.router", str(file)]


def sglang(python: str, *more: str) -> Callable[[Ports, Path], list[str]]:
    """A load balancer of the `sglang-router` package, which `python` can import."""

    def command(ports: Ports, _: Path) -> list[str]:
        return [
            *(python, "-m", "sglang_router.launch_router", "--pd-disaggregation", "--policy", "random"),
            *("--prefill", f"http://127.0.0.1:{ports.prefill}", "8998"),
            *("--decode", f"http://127.0.0.1:{ports.decode}"),
            *("--host", "127.0.0.1", "--port", str(ports.balancer), "--prometheus-port", str(ports.metrics)),
            *("--log-level", "warn", *more),
        ]

    return command


@contextlib.contextmanager
def worker(role: str, port: int) -> Iterator[Running]:
    """A zero-cost worker while the block runs."""
    command = [sys.executable, "-m", "sun_sglang.bench.router_worker", "--role", role, "--port", str(port)]
    with _running(f"the {role} worker", command, Path()) as process:
        _until_ok(f"the {role} worker", f"http://127.0.0.1:{port}/health", process)
        yield process


@contextlib.contextmanager
def balancer(name: str, command: list[str], port: int, directory: Path) -> Iterator[Running]:
    """A load balancer that has answered a request, while the block runs.

    Raises:
        PeerError: it does not come to that.
    """
    with _running(name, command, directory) as process:
        _until_ok(name, f"http://127.0.0.1:{port}/generate", process, body=request(3).partition(b"\r\n\r\n")[2])
        yield process


def ports() -> Ports:
    """Free ports."""
    return Ports(*itertools.islice(free_ports(), len(Ports._fields)))


@contextlib.contextmanager
def _running(name: str, command: list[str], directory: Path) -> Iterator[Running]:
    log = directory / f"{name.replace(' ', '-')}.log" if directory != Path() else None
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        try:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        except OSError as e:
            raise PeerError(f"{name}: cannot run {command[0]} ({e.strerror or e})") from e
        try:
            yield Running(psutil.Process(process.pid))
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


def _until_ok(name: str, url: str, process: Running, body: bytes | None = None) -> None:
    deadline = time.monotonic() + START_S
    why = ""
    while time.monotonic() < deadline:
        if process.process.status() == psutil.STATUS_ZOMBIE:
            raise PeerError(f"{name}: it ended while it started; `sglang-router` has to be installed for it")
        asked = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=5) as reply:
                reply.read()
            return
        except (OSError, urllib.error.HTTPError) as e:
            why = str(e)
        time.sleep(0.1)
    raise PeerError(f"{name}: no answer from {url} within {START_S:g} s ({why})")
