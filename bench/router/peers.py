"""The load balancers of the speed benchmark: how to start each one before two workers, and what resources it uses."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import orjson
import psutil

from sun_sglang.bench.processes import router_command, stop_process
from sun_sglang.bench.router.load_client import request_bytes
from sun_sglang.errors import UserError
from sun_sglang.launch.places.local.ports import free_ports

START_S = 60.0
# consecutive answers, each over a new connection, after which every process of a load balancer has answered: with two
# processes, the kernel gives all of these connections to one of them with probability 2^-31
_ANSWERS = 32


class PeerError(UserError):
    """A load balancer does not start; the message names it and the reason."""


class Ports(NamedTuple):
    """Ports of the workers, of the load balancer and of its metrics page."""

    prefill: int
    decode: int
    balancer: int
    metrics: int


Command: TypeAlias = Callable[[Ports, Path], list[list[str]]]


class ProcessTree(NamedTuple):
    """Processes and all of their descendants."""

    processes: tuple[psutil.Process, ...]

    def cpu(self) -> float:
        """Return the CPU seconds used so far."""
        times = [p.cpu_times() for p in self._all()]
        return sum(t.user + t.system for t in times)

    def memory(self) -> float:
        """Return the memory that no other process shares (USS), in MiB."""
        return float(sum(p.memory_full_info().uss for p in self._all())) / 2**20

    def _all(self) -> list[psutil.Process]:
        return [p for own in self.processes for p in (own, *own.children(recursive=True))]


def sun_router(processes: int, *, failover: bool = True) -> Command:
    """Return the command lines of this project's router, as one process or as several on one port.

    Args:
        processes: how many.
        failover: whether answers may go on elsewhere.
    """

    def command(ports: Ports, directory: Path) -> list[list[str]]:
        file = directory / f"fleet-{ports.balancer}.json"
        file.write_bytes(orjson.dumps(_fleet(ports, processes, failover)))
        return [router_command(str(file), "--process", str(i)) for i in range(processes)]

    return command


def sglang_router(python: str, *more: str) -> Command:
    """Return the command line of a load balancer of the package `sglang-router`.

    Args:
        python: a Python that can import `sglang_router`.
        more: more options.
    """

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


def _fleet(ports: Ports, processes: int, failover: bool) -> dict[str, object]:
    return {
        "tasks": {"bench": {"prefill": "p", "decode": "d", "failover": failover}},
        "pools": {"p": {"role": "prefill", "model": "none"}, "d": {"role": "decode", "model": "none"}},
        "workers": [
            {"name": "p-0", "pool": "p", "url": f"http://127.0.0.1:{ports.prefill}"},
            {"name": "d-0", "pool": "d", "url": f"http://127.0.0.1:{ports.decode}"},
        ],
        "router": {"port": ports.balancer, "processes": processes},
    }


@contextlib.contextmanager
def running_worker(role: str, port: int) -> Iterator[ProcessTree]:
    """Run a zero-cost worker; it ends with the context."""
    command = [sys.executable, "-m", "sun_sglang.bench.router.null_worker", "--role", role, "--port", str(port)]
    with _running_processes(f"the {role} worker", [command], None) as running:
        _until_ok(f"the {role} worker", f"http://127.0.0.1:{port}/health", running)
        yield running


@contextlib.contextmanager
def running_balancer(name: str, commands: Sequence[list[str]], port: int, directory: Path) -> Iterator[ProcessTree]:
    """Run a load balancer; it ends with the context. On entry, every process of it has answered a request.

    Args:
        name: its name, for errors and for its log file.
        commands: command line of each process.
        port: its port.
        directory: folder of its logs.

    Raises:
        PeerError: it does not start, or does not answer within a minute.
    """
    body = request_bytes(3).partition(b"\r\n\r\n")[2]
    with _running_processes(name, commands, directory) as running:
        _until_ok(name, f"http://127.0.0.1:{port}/generate", running, body, in_a_row=_ANSWERS)
        yield running


@contextlib.contextmanager
def running_system(name: str, command: Command) -> Iterator[tuple[ProcessTree, Ports]]:
    """Run a load balancer before one zero-cost worker of each role; all end with the context.

    Args:
        name: the load balancer's name, for errors.
        command: returns its command lines.

    Raises:
        PeerError: it does not start.
    """
    ports = choose_ports()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for role, port in (("prefill", ports.prefill), ("decode", ports.decode)):
            stack.enter_context(running_worker(role, port))
        commands = command(ports, directory)
        yield stack.enter_context(running_balancer(name, commands, ports.balancer, directory)), ports


def choose_ports() -> Ports:
    """Return free ports."""
    return Ports(*itertools.islice(free_ports(), len(Ports._fields)))


@contextlib.contextmanager
def _running_processes(name: str, commands: Sequence[list[str]], directory: Path | None) -> Iterator[ProcessTree]:
    with contextlib.ExitStack() as stack:
        out = subprocess.DEVNULL
        if directory is not None:
            out = stack.enter_context((directory / f"{name.replace(' ', '-')}.log").open("wb")).fileno()
        started = [stack.enter_context(_running_process(name, command, out)) for command in commands]
        yield ProcessTree(tuple(psutil.Process(process.pid) for process in started))


@contextlib.contextmanager
def _running_process(name: str, command: list[str], out: int) -> Iterator[subprocess.Popen[bytes]]:
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


def _until_ok(name: str, url: str, running: ProcessTree, body: bytes | None = None, in_a_row: int = 1) -> None:
    deadline = time.monotonic() + START_S
    # without the environment's proxies: the address is on this machine
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    why, passed = "", 0
    while time.monotonic() < deadline:
        if any(process.status() == psutil.STATUS_ZOMBIE for process in running.processes):
            raise PeerError(f"{name}: the process ended during its start; is `sglang-router` installed?")
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
