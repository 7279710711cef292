"""Eight emulated workers as a user runs them: `sun launch`, and the real router in front."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from sun_sglang.bench.processes import run_sun
from sun_sglang.emulator.protocol.fake_tokens import expected_tokens
from sun_sglang.launch.router_access import worker_headers
from sun_sglang.launch.state import DeploymentState, read_state

TASKS = ("a", "b", "c", "d")
TOPOLOGY = {
    "pools": {"base": {"role": "decode", "model": "none/base", "replicas": 4}}
    | {name: {"role": "prefill", "model": f"none/{name}"} for name in TASKS},
    "tasks": {name: {"prefill": name, "decode": "base"} for name in TASKS},
    "backend": "emulated",
    "emulated": {"costs": "costs.yaml", "vocab_size": 1000},
    "router": {"port": 0, "probe_interval": 0.2},
}


def sun(*arguments: str) -> None:
    done = run_sun(*arguments, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("emulated")
    (home / "costs.yaml").write_text("{decode_step: 0.002, prefill: 0.002, kv_tokens: 100000}")
    (home / "sun.yaml").write_text(yaml.safe_dump(TOPOLOGY))
    run = home / "run"
    sun("launch", str(home / "sun.yaml"), "--detach", "--run-dir", str(run))
    yield run
    sun("stop", "--run-dir", str(run), "--now")


@pytest.fixture
async def client(run_dir: Path) -> Any:
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, headers=worker_headers(run_dir)) as session:
        yield session


def state(run_dir: Path) -> DeploymentState:
    found = read_state(run_dir)
    assert found is not None
    return found


def process_url(run_dir: Path, name: str) -> str:
    return next(p.url for p in state(run_dir).processes if p.name == name)


async def weights(client: aiohttp.ClientSession, run_dir: Path) -> dict[str, str]:
    """Return the revision of each task's prefill weights, from the workers' cards."""
    revisions = {}
    for task in TASKS:
        async with client.get(f"{process_url(run_dir, f'{task}-0')}/sun/worker") as reply:
            revisions[task] = (await reply.json())["identity"]["weights"]
    return revisions


async def ask(client: aiohttp.ClientSession, run_dir: Path, task: str, prompt: list[int], length: int) -> list[int]:
    body = {"model": task, "input_ids": prompt, "sampling_params": {"max_new_tokens": length, "ignore_eos": True}}
    async with client.post(f"{state(run_dir).url}/generate", json=body) as reply:
        assert reply.status == 200, await reply.text()
        return list((await reply.json())["output_ids"])


async def check_answers(client: aiohttp.ClientSession, run_dir: Path, each: int) -> None:
    """Send many requests of every task at once; every answer must be its own task's."""
    known = await weights(client, run_dir)
    asked = [(task, [i, 5, 8]) for i in range(each) for task in TASKS]
    got = await asyncio.gather(*(ask(client, run_dir, task, prompt, 16) for task, prompt in asked))
    assert got == [expected_tokens(known[task], prompt, 16, 1000) for task, prompt in asked]


async def at_rest(client: aiohttp.ClientSession, run_dir: Path) -> None:
    """Wait until no worker holds anything."""
    async with asyncio.timeout(60):
        for process in state(run_dir).processes:
            while process.role != "router" and await busy(client, process.url):
                await asyncio.sleep(0.05)


async def busy(client: aiohttp.ClientSession, url: str) -> bool:
    async with client.get(f"{url}/v1/loads") as reply:
        load = (await reply.json())["loads"][0]
    queues = [v for k, v in load["disaggregation"].items() if k.endswith("_queue_reqs")]
    return any((load["num_running_reqs"], load["num_waiting_reqs"], load["num_used_tokens"], *queues))


async def test_every_task_gets_its_own_answers(client: aiohttp.ClientSession, run_dir: Path) -> None:
    assert len(state(run_dir).processes) == 9
    await check_answers(client, run_dir, each=20)
    await at_rest(client, run_dir)


async def test_a_worker_that_fails_is_worked_around(client: aiohttp.ClientSession, run_dir: Path) -> None:
    fault = {"kind": "status", "status": 500, "times": 2, "spare": "sun-canary"}
    async with client.post(f"{process_url(run_dir, 'base-0')}/sun/fault", json=fault) as reply:
        assert reply.status == 200
    await check_answers(client, run_dir, each=5)
    await at_rest(client, run_dir)


async def test_a_killed_worker_is_started_again(client: aiohttp.ClientSession, run_dir: Path) -> None:
    before = await shown(client, run_dir, "base-1")
    os.kill(next(p.pid for p in state(run_dir).processes if p.name == "base-1"), signal.SIGKILL)
    async with asyncio.timeout(60):
        # a request that the router sends to the next process before it knows of it is lost: it may be the cause
        while await shown(client, run_dir, "base-1") == before:
            await asyncio.sleep(0.01)
    await check_answers(client, run_dir, each=5)
    async with asyncio.timeout(60):
        while (now := await shown(client, run_dir, "base-1"))[0] != "ready" or now[1] == before[1]:
            await asyncio.sleep(0.1)
    await check_answers(client, run_dir, each=5)
    await at_rest(client, run_dir)


async def shown(client: aiohttp.ClientSession, run_dir: Path, name: str) -> tuple[str, str]:
    """Return a worker's state, and which process it is, as the router shows them."""
    async with client.get(f"{state(run_dir).url}/tasks") as reply:
        tasks = (await reply.json())["tasks"]
    workers = [w for task in tasks.values() for side in ("prefill", "decode") for w in task[side]["workers"]]
    return next((w["state"], w["incarnation"]) for w in workers if w["name"] == name)
