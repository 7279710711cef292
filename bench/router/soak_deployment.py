"""The deployment of the soak test: emulated workers behind `sun launch`, and the state that its HTTP API reports."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from sun_sglang.bench.processes import run_sun
from sun_sglang.launch.router_access import worker_headers
from sun_sglang.launch.state import DeploymentState, read_state

VOCAB = 1000
TASKS = ("math", "tool")
_TOPOLOGY: dict[str, Any] = {
    "pools": {
        "base": {"role": "decode", "model": "none/base", "replicas": 2},
        **{task: {"role": "prefill", "model": f"none/{task}", "replicas": 2} for task in TASKS},
    },
    "backend": "emulated",
    "emulated": {"costs": "costs.yaml", "vocab_size": VOCAB, "heartbeat_interval": 0.5, "lookup_attempts": 5},
    "router": {"port": 0, "probe_interval": 0.5, "first_token_timeout": 5, "idle_timeout": 3},
}
_COSTS = {"decode_step": 0.004, "prefill": 0.004, "transfer": 0.002, "kv_tokens": 20_000}
# seconds for a request; the router's own deadlines end it long before
REQUEST_TIMEOUT = 60.0
_READY_WITHIN = 120.0
_IDLE_WITHIN = 30.0
_POLL = 0.2


@contextmanager
def launched(folder: Path, *, failover: bool) -> Iterator[SoakDeployment]:
    """Launch the deployment and stop it with the context.

    Args:
        folder: for its files.
        failover: whether answers go on when their decode worker is lost.

    Raises:
        SystemExit: `sun launch` or `sun stop` fails.
    """
    (folder / "costs.yaml").write_text(yaml.safe_dump(_COSTS))
    tasks = {task: {"prefill": task, "decode": "base", "failover": failover} for task in TASKS}
    (folder / "soak.yaml").write_text(yaml.safe_dump(_TOPOLOGY | {"tasks": tasks}))
    run_dir = folder / "run"
    _require_sun("launch", str(folder / "soak.yaml"), "--detach", "--run-dir", str(run_dir))
    try:
        yield SoakDeployment(run_dir)
    finally:
        _require_sun("stop", "--run-dir", str(run_dir), "--now")


class SoakDeployment:
    """A running deployment.

    Args:
        run_dir: folder of its state and its worker key.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    @property
    def state(self) -> DeploymentState:
        """The state that the launcher wrote last."""
        state = read_state(self._run_dir)
        assert state is not None, "launched"
        return state

    def client(self) -> aiohttp.ClientSession:
        """Return a client of the router; its headers give access to the workers too."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(
            self.state.url, timeout=timeout, connector=connector, headers=worker_headers(self._run_dir)
        )

    def router_memory(self) -> float:
        """Return the router's own memory (USS) in MiB."""
        router = next(p for p in self.state.processes if p.role == "router")
        return float(psutil.Process(router.pid).memory_full_info().uss) / 2**20

    async def workers(self, client: aiohttp.ClientSession) -> dict[str, dict[str, Any]]:
        """Return the entry of each worker in the router's `/tasks`, by the worker's name."""
        async with client.get("/tasks") as reply:
            tasks = (await reply.json())["tasks"]
        pools = [t[role] for t in tasks.values() for role in ("prefill", "decode")]
        return {w["name"]: w for pool in pools for w in pool["workers"]}

    async def weights(self, client: aiohttp.ClientSession) -> dict[str, str]:
        """Return the revision of each prefill pool's weights, by the pool's name."""
        found = {}
        for process in self.state.processes:
            if process.role == "prefill":
                async with client.get(f"{process.url}/sun/worker") as reply:
                    found[process.pool] = (await reply.json())["identity"]["weights"]
        return found

    async def wait_ready(self, client: aiohttp.ClientSession) -> None:
        """Wait until every worker is ready.

        Raises:
            SystemExit: a worker is not ready within two minutes.
        """
        deadline = time.monotonic() + _READY_WITHIN
        while time.monotonic() < deadline:
            with suppress(aiohttp.ClientError):
                if all(w["state"] == "ready" for w in (await self.workers(client)).values()):
                    return
            await asyncio.sleep(_POLL)
        raise SystemExit(f"a worker is not ready within {_READY_WITHIN:g} s after the last fault; see the logs")

    async def wait_recovered(self, client: aiohttp.ClientSession) -> None:
        """Clear every injected fault, and wait until the router has proven every worker's current process.

        Raises:
            SystemExit: workers are still restarted or unproven two minutes later.
        """
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            await self.wait_ready(client)
            if await self._clear_faults(client):
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"workers still restart {_READY_WITHIN:g} s after the last fault")
            await asyncio.sleep(_POLL)

    async def wait_idle(self, client: aiohttp.ClientSession) -> list[str]:
        """Wait until nothing is in flight; return what still is after 30 s."""
        deadline = time.monotonic() + _IDLE_WITHIN
        left: list[str] = ["not checked"]
        while left and time.monotonic() < deadline:
            await asyncio.sleep(_POLL)
            gauges = await _metrics(client)
            left = [k for k, v in gauges.items() if v and k.startswith(("sun_in_flight", "sun_leg_in_flight"))]
            for process in self.state.processes:
                if process.role != "router":
                    async with client.get(f"{process.url}/v1/loads") as reply:
                        rank = (await reply.json())["loads"][0]
                    if rank["num_running_reqs"] or rank["num_waiting_reqs"] or rank["num_used_tokens"]:
                        left.append(f"{process.name} holds requests")
        return [f"left in flight {_IDLE_WITHIN:g} s after the end: {what}" for what in left]

    async def counted_outcomes(self, client: aiohttp.ClientSession) -> dict[str, int]:
        """Return how many requests the router counted, by outcome."""
        found: Counter[str] = Counter()
        for name, value in (await _metrics(client)).items():
            if name.startswith("sun_requests_total"):
                found[name.split('outcome="')[1].split('"')[0]] += int(value)
        return dict(sorted(found.items()))

    async def _clear_faults(self, client: aiohttp.ClientSession) -> bool:
        """Clear every worker's fault; return whether the router has every worker's current process as ready."""
        known = await self.workers(client)
        try:
            for process in self.state.processes:
                if process.role == "router":
                    continue
                async with client.post(f"{process.url}/sun/fault", json={"kind": "clear"}) as reply:
                    reply.raise_for_status()
                async with client.get(f"{process.url}/sun/worker") as reply:
                    now = (await reply.json())["incarnation"]
                if (known[process.name]["incarnation"], known[process.name]["state"]) != (now, "ready"):
                    return False
        except aiohttp.ClientError:
            return False
        return True


async def _metrics(client: aiohttp.ClientSession) -> dict[str, float]:
    async with client.get("/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def _require_sun(*arguments: str) -> None:
    done = run_sun(*arguments)
    if done.returncode:
        raise SystemExit(f"`sun {arguments[0]}` failed:\n{done.stdout}{done.stderr}")
