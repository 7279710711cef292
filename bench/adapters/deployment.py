"""A deployment of many adapter tasks, launched as a user would, and what its router reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
import psutil
import yaml

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import run_sun
from sun_sglang.contracts.worker_key import bearer
from sun_sglang.launch.planning.plan import WORKER_KEY
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.state import DeploymentState, read_state

PAIR = {"prefill": "shared", "decode": "base"}
"""The pools of every task."""

_READY_WITHIN = 600.0
_LAUNCH_WITHIN = 900.0
_POLL = 0.02


class Read(NamedTuple):
    """One read of `/tasks`.

    Attributes:
        report: its content.
        seconds: time from the request to the last byte.
        size: bytes.
    """

    report: dict[str, Any]
    seconds: float
    size: int


class Launch(NamedTuple):
    """Times of a start, seconds since `sun launch` was called.

    Attributes:
        launched: the command returned.
        ready: every task was ready, and every worker served each adapter.
    """

    launched: float
    ready: float


class AdapterDeployment:
    """A running deployment.

    Args:
        run_dir: directory of its state and keys.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    @property
    def state(self) -> DeploymentState:
        """The state that the launcher wrote last."""
        state = read_state(self.run_dir)
        assert state is not None, "launched"
        return state

    def client(self) -> aiohttp.ClientSession:
        """Return a client of the router with the launcher's admin key."""
        timeout = aiohttp.ClientTimeout(total=_READY_WITHIN)
        return aiohttp.ClientSession(self.state.url, timeout=timeout, headers=read_access(self.run_dir).headers)

    def worker_client(self) -> aiohttp.ClientSession:
        """Return a client of the workers, with the deployment's worker key."""
        key = (self.run_dir / WORKER_KEY).read_text(encoding="ascii")
        return aiohttp.ClientSession(headers=bearer(key))

    def memory(self, role: str) -> float:
        """Return the memory (USS) of a worker of a role with its child processes, or of a router, MiB; the mean."""
        found = [psutil.Process(process.pid) for process in self.state.processes if process.role == role]
        trees = [process for one in found for process in (one, *one.children(recursive=True))]
        return sum(process.memory_full_info().uss for process in trees) / len(found) / 2**20


async def read_tasks(client: aiohttp.ClientSession) -> Read:
    """Read the router's `/tasks`."""
    began = time.perf_counter()
    async with client.get("/tasks") as reply:
        raw = await reply.read()
    seconds = time.perf_counter() - began
    return Read(orjson.loads(raw), seconds, len(raw))


def many_tasks(model: str, adapters: Sequence[Path], *, replicas: int = 1) -> dict[str, Any]:
    """Return a topology with a task for each adapter, named after its folder, on one pool for each role.

    Args:
        model: of both pools.
        adapters: folders of the adapters.
        replicas: workers of each pool.
    """
    return {
        "pools": {PAIR[role]: {"role": role, "model": model, "replicas": replicas} for role in ("decode", "prefill")},
        "tasks": {adapter.name: {**PAIR, "adapter": str(adapter)} for adapter in adapters},
        "router": {"port": 0},
    }


def real_tasks(base: Path, adapters: Sequence[Path], slots: int) -> dict[str, Any]:
    """Return a topology of real workers in bfloat16, with a task for each adapter.

    Args:
        base: the base's checkpoint.
        adapters: folders of the adapters.
        slots: slots of the prefill worker for adapters; one more is for requests without any.
    """
    topology = many_tasks(str(base.resolve()), adapters) | {"engine": {"dtype": "bfloat16"}}
    topology["pools"][PAIR["prefill"]]["engine"] = {"max_loras_per_batch": slots + 1}
    return topology


def is_ready(report: Mapping[str, Any], tasks: int, replicas: int) -> bool:
    """Return whether every task is served over every path between the workers, so that no adapter is missing."""
    found = report["tasks"].values()
    return len(found) == tasks and all(len(task["paths"]) == replicas * replicas for task in found)


@contextmanager
def launched(folder: Path, topology: Mapping[str, Any]) -> Iterator[tuple[AdapterDeployment, Launch]]:
    """Launch a deployment and stop it with the context.

    Args:
        folder: for its files.
        topology: made by `many_tasks`, with further keys.

    Raises:
        SystemExit: `sun launch` or `sun stop` fails.
        ConditionNotMetError: not every task is ready in time.
    """
    (folder / "many.yaml").write_text(yaml.safe_dump(dict(topology), sort_keys=False))
    run_dir = folder / "run"
    began = time.perf_counter()
    require_sun("launch", str(folder / "many.yaml"), "--detach", "--run-dir", str(run_dir))
    after_launch = time.perf_counter() - began
    deployment = AdapterDeployment(run_dir)
    replicas = topology["pools"][PAIR["prefill"]]["replicas"]
    try:
        asyncio.run(_until_ready(deployment, len(topology["tasks"]), replicas))
        yield deployment, Launch(after_launch, time.perf_counter() - began)
    finally:
        require_sun("stop", "--run-dir", str(run_dir), "--now")


def require_sun(*arguments: str) -> None:
    """Run a `sun` command.

    Raises:
        SystemExit: it fails; the message has its output.
    """
    done = run_sun(*arguments, timeout=_LAUNCH_WITHIN)
    if done.returncode:
        raise SystemExit(f"sun {arguments[0]} failed:\n{done.stdout}{done.stderr}")


async def _until_ready(deployment: AdapterDeployment, tasks: int, replicas: int) -> None:
    async with deployment.client() as client:
        await wait_until(
            lambda: read_tasks(client),
            "every task is ready",
            within=_READY_WITHIN,
            accept=lambda read: is_ready(read.report, tasks, replicas),
            interval=_POLL,
        )
