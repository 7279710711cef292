"""The cluster of the policy benchmark: emulated workers that tasks share, and one router before them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import yaml

from sun_sglang.bench.processes import router_command, stop_process
from sun_sglang.launch.places.local.ports import free_ports

TASKS = ("a", "b", "c", "d")
DECODERS = 4
# A decode worker has room for about fifteen requests (SGLang reserves tokens for each) and has ten at the default rate:
# with a bad placement some requests wait for KV, and others decode in unnecessarily large batches.
COSTS = {
    "decode_step": 0.010,
    "decode_per_request": 0.0015,
    "prefill": 0.003,
    "prefill_per_token": 0.00002,
    "transfer": 0.001,
    "transfer_per_byte": 2e-10,
    "kv_tokens": 10_000,
}
READY_S = 60.0
# consecutive answers for each process, each over a new connection, after which every process has answered
_ANSWERS_A_PROCESS = 16


class RouterSetup(NamedTuple):
    """A decode policy, and the number of router processes."""

    policy: str
    processes: int = 1

    def __str__(self) -> str:
        return self.policy if self.processes == 1 else f"{self.policy}, {self.processes} processes"


@contextlib.contextmanager
def running_workers(directory: Path) -> Iterator[dict[str, Any]]:
    """Run the emulated workers, which end with the context; yield their fleet without the router's settings."""
    ports = free_ports()
    costs = directory / "costs.yaml"
    costs.write_text(yaml.safe_dump(COSTS))
    pools = dict.fromkeys(TASKS, "prefill") | {"base": "decode"}
    fleet: dict[str, Any] = {
        "tasks": {task: {"prefill": task, "decode": "base"} for task in TASKS},
        "pools": {pool: {"role": role, "model": f"none/{pool}"} for pool, role in pools.items()},
        "workers": [],
    }
    with contextlib.ExitStack() as stack:
        for pool, role in pools.items():
            for i in range(DECODERS if role == "decode" else 1):
                port = next(ports)
                argv = [sys.executable, "-m", "sun_sglang.emulator.worker", "--model-path", f"none/{pool}"]
                argv += ["--disaggregation-mode", role, "--port", str(port), "--sim-costs", str(costs)]
                argv += ["--disaggregation-bootstrap-port", str(next(ports)), "--sim-vocab-size", "1000"]
                stack.enter_context(_process([*argv, "--disaggregation-decode-enable-radix-cache"]))
                fleet["workers"].append({"name": f"{pool}-{i}", "pool": pool, "url": f"http://127.0.0.1:{port}"})
        yield fleet


@contextlib.contextmanager
def running_router_setup(directory: Path, fleet: dict[str, Any], system: RouterSetup) -> Iterator[str]:
    """Run a router before the workers, which ends with the context; yield its URL.

    On entry, each of its processes has proven every path.

    Args:
        directory: folder of its fleet file.
        fleet: the workers, from `running_workers`.
        system: its policy and its processes.
    """
    port = next(free_ports())
    file = directory / "fleet.json"
    own = {"port": port, "processes": system.processes, "policy": {"decode": system.policy}}
    file.write_text(json.dumps({**fleet, "router": own}))
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        for i in range(system.processes):
            stack.enter_context(_process(router_command(str(file), "--process", str(i))))
        asyncio.run(_until_proven(url, _ANSWERS_A_PROCESS * system.processes))
        yield url


async def _until_proven(url: str, in_a_row: int) -> None:
    connector = aiohttp.TCPConnector(force_close=True)
    passed = 0
    async with aiohttp.ClientSession(url, connector=connector) as client, asyncio.timeout(READY_S):
        while passed < in_a_row:
            if await _is_proven(client):
                passed += 1
            else:
                passed = 0
                await asyncio.sleep(0.1)


async def _is_proven(client: aiohttp.ClientSession) -> bool:
    try:
        async with client.get("/tasks") as reply:
            tasks = (await reply.json())["tasks"].values()
    except aiohttp.ClientError:
        return False
    return all(len(task["paths"]) == DECODERS for task in tasks)


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        stop_process(process, 40)
