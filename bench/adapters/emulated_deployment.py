"""A deployment of many adapter tasks on emulated workers, launched as a user would, and what its router reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
import yaml

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import run_sun
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.state import DeploymentState, read_state

WORKERS = 2
"""Prefill workers, and decode workers."""

PREFILL, DECODE = "shared", "base"
_READY_WITHIN = 600.0
_LAUNCH_WITHIN = 900.0
_POLL = 0.02


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

    def memory(self, role: str) -> float:
        """Return the memory (USS) of the processes of a role, MiB; the mean of several."""
        pids = [process.pid for process in self.state.processes if process.role == role]
        return sum(psutil.Process(pid).memory_full_info().uss for pid in pids) / len(pids) / 2**20


async def read_tasks(client: aiohttp.ClientSession) -> tuple[dict[str, Any], float, int]:
    """Return the router's `/tasks`, the seconds that it took, and its bytes."""
    began = time.perf_counter()
    async with client.get("/tasks") as reply:
        raw = await reply.read()
    seconds = time.perf_counter() - began
    return dict(await reply.json()), seconds, len(raw)


def is_ready(report: dict[str, Any], tasks: int) -> bool:
    """Return whether every task is served over every path of the workers."""
    found = report["tasks"].values()
    return len(found) == tasks and all(len(task["paths"]) == WORKERS * WORKERS for task in found)


@contextmanager
def launched(
    folder: Path, tasks: dict[str, Any], costs: dict[str, float]
) -> Iterator[tuple[AdapterDeployment, Launch]]:
    """Launch a deployment and stop it with the context.

    Args:
        folder: for its files.
        tasks: the topology's `tasks` or `adapters`, with their keys.
        costs: the content of the workers' cost file.

    Raises:
        SystemExit: `sun launch` or `sun stop` fails.
        ConditionNotMetError: not every task is ready in time.
    """
    pools = {
        DECODE: {"role": "decode", "model": "none/base", "replicas": WORKERS},
        PREFILL: {"role": "prefill", "model": "none/base", "replicas": WORKERS},
    }
    topology = {
        "pools": pools,
        **tasks,
        "backend": "emulated",
        "emulated": {"costs": "costs.yaml", "vocab_size": 1000},
        "router": {"port": 0},
    }
    (folder / "costs.yaml").write_text(yaml.safe_dump(costs))
    (folder / "many.yaml").write_text(yaml.safe_dump(topology, sort_keys=False))
    run_dir = folder / "run"
    began = time.perf_counter()
    require_sun("launch", str(folder / "many.yaml"), "--detach", "--run-dir", str(run_dir))
    after_launch = time.perf_counter() - began
    deployment = AdapterDeployment(run_dir)
    try:
        count = len(tasks.get("tasks", {})) or sum(len(_subfolders(d["directory"])) for d in tasks["adapters"])
        asyncio.run(_until_ready(deployment, count))
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


def _subfolders(directory: str) -> list[Path]:
    return [path for path in Path(directory).iterdir() if path.is_dir()]


async def _until_ready(deployment: AdapterDeployment, tasks: int) -> None:
    async with deployment.client() as client:
        await wait_until(
            lambda: read_tasks(client),
            "every task is ready",
            within=_READY_WITHIN,
            accept=lambda found: is_ready(found[0], tasks),
            interval=_POLL,
        )
