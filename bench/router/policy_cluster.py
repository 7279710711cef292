"""The cluster that policies are compared on: emulated workers that tasks share, and one router before them."""

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
# whoever places badly makes some wait for KV, and decodes others in needlessly large batches.
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
# Answers in a row, each over a connection of its own, after which every process of a router has given some.
_ANSWERS_A_PROCESS = 16


class System(NamedTuple):
    """What is compared: a decode policy, and how many processes the router has."""

    policy: str
    processes: int = 1

    def __str__(self) -> str:
        return self.policy if self.processes == 1 else f"{self.policy}, {self.processes} processes"


@contextlib.contextmanager
def workers(directory: Path) -> Iterator[dict[str, Any]]:
    """Emulated workers while the block runs; gives the fleet without its router's settings."""
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
def router(directory: Path, fleet: dict[str, Any], system: System) -> Iterator[str]:
    """A router before the workers, once each of its processes has proven every path."""
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
