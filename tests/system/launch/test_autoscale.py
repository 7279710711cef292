"""A decode pool of emulated workers that sizes itself under load, and the errors of its settings."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import run_sun
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import PoolSize, read_state

PATIENCE_S = 120.0
# one client alone needs more than one worker: its context makes a step longer than the SLO
COSTS = {"decode_step": 0.002, "decode_per_context_token": 1e-4}
TOPOLOGY: dict[str, Any] = {
    "pools": {
        "base": {"role": "decode", "model": "none/base", "emulated": {"vocab_size": 1000, "costs": "costs.yaml"}},
        "math": {"role": "prefill", "model": "none/math"},
    },
    "tasks": {"math": {"prefill": "math", "decode": "base"}},
    "backend": "emulated",
    "emulated": {"vocab_size": 1000},
    "router": {"port": 0, "processes": 2, "probe_interval": 0.1},
    "autoscale": {"pool": "base", "min": 1, "max": 3, "slo": {"tpot": "4ms"}, "window": "3s", "hold": "1s"},
}
BODY = {
    "model": "math",
    "input_ids": list(range(50)),
    "sampling_params": {"max_new_tokens": 20, "ignore_eos": True, "temperature": 0},
}


def size(run_dir: Path) -> PoolSize:
    state = read_state(run_dir)
    assert state is not None
    return state.sizes[0]


async def clients(url: str, count: int, until: asyncio.Event) -> list[list[int]]:
    """Send one request after the other from each client until the event, and return the answers."""
    answers = []

    async def client(session: aiohttp.ClientSession) -> None:
        while not until.is_set():
            async with session.post(f"{url}/generate", json=BODY) as reply:
                assert reply.status == 200, await reply.text()
                answers.append((await reply.json())["output_ids"])

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(client(session))
    return answers


@pytest.mark.invariant("I26")
async def test_pool_grows_under_load_and_shrinks_without_it_and_loses_no_answer(tmp_path: Path) -> None:
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(COSTS))
    (tmp_path / "sun.yaml").write_text(yaml.safe_dump(TOPOLOGY))
    run_dir = tmp_path / "run"
    done = run_sun("launch", str(tmp_path / "sun.yaml"), "--detach", "--run-dir", str(run_dir))
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        state = read_state(run_dir)
        assert state is not None
        assert [p.name for p in state.processes if p.role == "decode"] == ["base-0"]
        grown = asyncio.Event()
        load = asyncio.create_task(clients(state.url, 6, grown))
        try:
            await wait_until(lambda: load.done() or size(run_dir).serving == 3, within=PATIENCE_S)
        finally:
            grown.set()
        answers = await load
        assert len({tuple(answer) for answer in answers}) == 1, "an answer depends on no worker"
        assert len(answers[0]) == 20
        assert size(run_dir).boot_seconds != TOPOLOGY["autoscale"].get("boot", 60.0), "a boot was measured"

        await wait_until(lambda: size(run_dir).serving == 1 and not size(run_dir).draining, within=PATIENCE_S)
        async with RouterClient(state.url, read_access(run_dir)) as client:
            await wait_until(lambda: fleet_is(client, {"base-0", "math-0"}), within=PATIENCE_S)
        status = json.loads(run_sun("status", "--json", "--run-dir", str(run_dir)).stdout)[0]
        assert status["sizes"][0]["reason"] == "no work is offered; bound by min 1"
        assert "drain" in status["sizes"][0]["changed"]
        shown = run_sun("status", "--run-dir", str(run_dir)).stdout
        assert "Pools that size themselves" in shown
        log = (run_dir / "supervisor.log").read_text()
        assert "pool base: start base-1" in log
    finally:
        stopped = run_sun("stop", "--run-dir", str(run_dir))
    assert stopped.returncode == 0, stopped.stderr


async def fleet_is(client: RouterClient, names: set[str]) -> bool:
    return {worker["name"] for worker in await client.workers()} == names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slo": {"tpot": "2ms"}}, "autoscale.0.slo.tpot: no number of workers meets 2 ms: a step with one request"),
        ({"costs": "no.yaml"}, "no.yaml: cannot be read"),
        ({"min": 4}, "autoscale.0: min 4 is more than max 3"),
    ],
)
def test_check_names_settings_that_cannot_hold(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(COSTS))
    wrong = {**TOPOLOGY, "autoscale": {**TOPOLOGY["autoscale"], **changes}}
    (tmp_path / "sun.yaml").write_text(yaml.safe_dump(wrong))
    done = run_sun("check", str(tmp_path / "sun.yaml"))
    assert done.returncode == 1
    assert message in done.stderr.replace("\n", " ")
