"""The load balancers that are compared: how each is started over two workers, and what it uses."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import orjson
import psutil

from sun_sglang.bench.processes import router_command, stop_process
from sun_sglang.bench.router.load_client import request
from sun_sglang.errors import UserError
from sun_sglang.launch.places.local.ports import free_ports

START_S = 60.0
# Answers in a row, each over a connection of its own, after which every process of a load balancer has given some: the
# kernel spreads connections over two processes such that all go to one of them with a chance of 2^-31.
_ANSWERS = 32


class PeerError(UserError):
    """A load balancer cannot be started; the message says which and why."""


class Ports(NamedTuple):
    """Where the workers and the load balancer listen."""

    prefill: int
    decode: int
    balancer: int
    metrics: int


Command: TypeAlias = Callable[[Ports, Path], list[list[str]]]


class Running(NamedTuple):
    """Processes with all that they started."""

    processes: tuple[psutil.Process, ...]

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        times = [p.cpu_times() for p in self._all()]
        return sum(t.user + t.system for t in times)

    def memory(self) -> float:
        """MiB that would be free without it (USS)."""
        return float(sum(p.memory_full_info().uss for p in self._all())) / 2**20

    def _all(self) -> list[psutil.Process]:
        return [p for own in self.processes for p in (own, *own.children(recursive=True))]


def sun(processes: int) -> Command:
    """This project's router, as one process or as several on one port."""

    def command(ports: Ports, directory: Path) -> list[list[str]]:
        file = directory / f"fleet-{ports.balancer}.json"
        file.write_bytes(orjson.dumps(_fleet(ports, processes)))
        return [router_command(str(file), "--process", str(i)) for i in range(processes)]

    return command


def sglang(python: str, *more: str) -> Command:
    """A load balancer of the `sglang-router` package, which `python` can import."""

    def command(ports: Ports, _: Path) -> list[list[str]]:
        one = [
            *(python, "-m", "sglang_router.launch_router", "--pd-disaggregation", "--policy", "random"),
            *("--prefill", f"http://127.0.0.1:{ports.prefill}", "8998"),
            *("--decode", f"http://127.0.0.1:{ports.decode}"),
            *("--host", "127.0.0.1", "--port", str(ports.balancer), "--prometheus-port", str(ports.metrics)),
            *("--log-level", "warn", *more),
        ]
        return [one]

    return command


def _fleet(ports: Ports, processes: int) -> dict[str, object]:
    return {
        "tasks": {"bench": {"prefill": "p", "decode": "d"}},
        "pools": {"p": {"role": "prefill", "model": "none"}, "d": {"role": "decode", "model": "none"}},
        "workers": [
            {"name": "p-0", "pool": "p", "url": f"http://127.0.0.1:{ports.prefill}"},
            {"name": "d-0", "pool": "d", "url": f"http://127.0.0.1:{ports.decode}"},
        ],
        "router": {"port": ports.balancer, "processes": processes},
    }


@contextlib.contextmanager
def worker(role: str, port: int) -> Iterator[Running]:
    """A zero-cost worker while the block runs."""
    command = [sys.executable, "-m", "sun_sglang.bench.router.null_worker", "--role", role, "--port", str(port)]
    with _running(f"the {role} worker", [command], None) as running:
        _until_ok(f"the {role} worker", f"http://127.0.0.1:{port}/health", running)
        yield running


@contextlib.contextmanager
def balancer(name: str, commands: Sequence[list[str]], port: int, directory: Path) -> Iterator[Running]:
    """A load balancer all of whose processes have answered a request, while the block runs.

    Raises:
        PeerError: it does not come to that.
    """
    body = request(3).partition(b"\r\n\r\n")[2]
    with _running(name, commands, directory) as running:
        _until_ok(name, f"http://127.0.0.1:{port}/generate", running, body, in_a_row=_ANSWERS)
        yield running


def ports() -> Ports:
    """Free ports."""
    return Ports(*itertools.islice(free_ports(), len(Ports._fields)))


@contextlib.contextmanager
def _running(name: str, commands: Sequence[list[str]], directory: Path | None) -> Iterator[Running]:
    with contextlib.ExitStack() as stack:
        out = subprocess.DEVNULL
        if directory is not None:
            out = stack.enter_context((directory / f"{name.replace(' ', '-')}.log").open("wb")).fileno()
        started = [stack.enter_context(_started(name, command, out)) for command in commands]
        yield Running(tuple(psutil.Process(process.pid) for process in started))


@contextlib.contextmanager
def _started(name: str, command: list[str], out: int) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    except OSError as e:
        raise PeerError(f"{name}: cannot run {command[0]} ({e.strerror or e})") from e
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        stop_process(process, 10)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _until_ok(name: str, url: str, running: Running, body: bytes | None = None, in_a_row: int = 1) -> None:
    deadline = time.monotonic() + START_S
    # past any proxy that the environment names: it is this machine
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    why, passed = "", 0
    while time.monotonic() < deadline:
        if any(process.status() == psutil.STATUS_ZOMBIE for process in running.processes):
            raise PeerError(f"{name}: it ended while it started; `sglang-router` has to be installed for it")
        asked = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
        try:
            with direct.open(asked, timeout=5) as reply:
                reply.read()
        except (OSError, urllib.error.HTTPError) as e:
            why, passed = str(e), 0
            time.sleep(0.1)
            continue
        passed += 1
        if passed == in_a_row:
            return
    raise PeerError(f"{name}: no answer from {url} within {START_S:g} s ({why})")
