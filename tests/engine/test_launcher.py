"""`sun launch` on real workers: restarts, ends, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from sun_sglang.bench.processes import run_sun
from sun_sglang.launch.state import Phase
from tests.engine.conftest import BUSY, Deployment, Reference, generate, launch, running
from tests.engine.precision import PRECISION
from tests.engine.watch import SOON

PAIR: dict[str, Any] = {
    "pools": {
        "a": {"role": "prefill", "model": "./llama-a"},
        "base": {"role": "decode", "model": "./llama-base"},
    },
    "tasks": {"a": {"prefill": "a", "decode": "base"}},
    "engine": {"dtype": PRECISION.dtype, "max_total_tokens": 8192},
    "router": {"port": 0, "first_token_timeout": BUSY},
}
PATIENCE = 90


@pytest.fixture
def pair(models: Path, tmp_path: Path) -> Iterator[Deployment]:
    """Launch one prefill and one decode worker."""
    with running(PAIR, models / "pair.yaml", tmp_path / "run") as launched:
        yield launched


def family(deployment: Deployment) -> list[psutil.Process]:
    supervisor = psutil.Process(deployment.state.pid)
    return [supervisor, *supervisor.children(recursive=True)]


async def right_answer(deployment: Deployment, models: Path, seed: int) -> None:
    prompt = [random.Random(seed).randrange(5, 261) for _ in range(30)]
    async with httpx.AsyncClient(base_url=deployment.url, timeout=BUSY) as client:
        reply = await generate(client, "a", prompt, 12)
    Reference(models / "llama-a", models / "llama-base").check(prompt, reply["output_ids"])


async def until_ready(deployment: Deployment, name: str, restarts: int) -> None:
    """Wait until a process was restarted so often, and the router has proven a path through what runs now."""
    async with httpx.AsyncClient(timeout=SOON, headers=deployment.headers) as client, asyncio.timeout(PATIENCE):
        while not (
            (process := deployment.process(name)).restarts >= restarts
            and process.phase == Phase.RUNNING
            and await proven(client, deployment)
        ):
            await asyncio.sleep(0.1)


async def proven(client: httpx.AsyncClient, deployment: Deployment) -> bool:
    try:
        task = (await client.get(f"{deployment.url}/tasks")).json()["tasks"]["a"]
        workers = [*task["prefill"]["workers"], *task["decode"]["workers"]]
        cards = [(await client.get(f"{worker['url']}/sun/worker")).json() for worker in workers]
    except httpx.HTTPError:
        return False
    known = [worker["incarnation"] for worker in workers]
    return task["ready"] and known == [card["incarnation"] for card in cards]


@pytest.mark.invariant("I20")
async def test_whatever_is_killed_comes_back_and_in_the_end_nothing_is_left(pair: Deployment, models: Path) -> None:
    await right_answer(pair, models, 0)
    cards = [await card(pair)]
    for name in ("a-0", "base-0"):
        worker = psutil.Process(pair.process(name).pid)
        groups = {os.getpgid(process.pid) for process in (worker, *worker.children(recursive=True))}
        assert groups == {worker.pid}, "the processes of a worker are known by their group"
    for restarts, name in enumerate(("a-0", "base-0", "router"), start=1):
        os.kill(pair.process(name).pid, signal.SIGKILL)
        await until_ready(pair, name, 1)
        await right_answer(pair, models, restarts)
        cards.append(await card(pair))
    assert cards[0]["incarnation"] != cards[1]["incarnation"]
    assert cards[0]["bootstrap_port"] != cards[1]["bootstrap_port"], "decode workers must not meet the old one"

    fork_server = psutil.Process(pair.process("a-0").pid).parent()
    assert fork_server is not None
    fork_server.kill()
    for name in ("a-0", "base-0"):
        await until_ready(pair, name, 2)
    await right_answer(pair, models, 9)

    processes = family(pair)
    assert len(processes) > 7, "supervisor, router, fork server, and three processes a worker"
    os.kill(pair.state.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(processes, timeout=SOON)
    assert left == []


async def card(deployment: Deployment) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=SOON, headers=deployment.headers) as client:
        return dict((await client.get(f"{deployment.process('a-0').url}/sun/worker")).json())


@pytest.mark.invariant("I20")
async def test_ctrl_c_lets_requests_finish_and_leaves_nothing(pair: Deployment) -> None:
    processes = family(pair)
    body = {
        "model": "a",
        "input_ids": list(range(5, 35)),
        "stream": True,
        "sampling_params": {"temperature": 0, "max_new_tokens": 300, "ignore_eos": True},
    }
    lines = []
    async with (
        httpx.AsyncClient(base_url=pair.url, timeout=60) as client,
        client.stream("POST", "/generate", json=body) as reply,
    ):
        async for line in reply.aiter_lines():
            if not lines:
                os.kill(pair.state.pid, signal.SIGINT)
            lines.append(line)
    data = [line.removeprefix("data: ") for line in lines if line]
    assert data[-1] == "[DONE]"
    assert len(json.loads(data[-2])["output_ids"]) == 300
    _, left = psutil.wait_procs(processes, timeout=60)
    assert left == []
    assert pair.state.phase == Phase.STOPPED


# Python runs it first in every process. In the fork server it stands for an import that initialises CUDA.
IMPORT_WITH_CUDA = """
import sys
if "sun_sglang.launch.places.local.fork_server" in sys.orig_argv:
    import torch
    from sun_sglang.worker import server
    torch.cuda.is_initialized = lambda: True
    server.import_engine = lambda: None
"""


# six processes import SGLang, each in some 15 s of CPU time, beside the tests of two other processes
@pytest.mark.timeout(900)
def test_import_that_initialises_cuda_falls_back_to_plain_starts_then_status_and_stop(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(IMPORT_WITH_CUDA)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    file = models / "plain.yaml"
    file.write_text(yaml.safe_dump(PAIR))
    run = ["--run-dir", str(tmp_path / "run")]
    deployment = launch(file, tmp_path / "run", "--start", "fork", within=600)
    note = "Workers are started one by one instead of forked: patch `fork_schedulers`: CUDA was initialised"
    assert note in (tmp_path / "run" / "supervisor.log").read_text()
    processes = family(deployment)
    assert all(
        psutil.Process(deployment.process(name).pid).ppid() == deployment.state.pid for name in ("a-0", "base-0")
    )
    again = run_sun("launch", str(file), *run)
    assert again.returncode == 1
    assert "already running" in again.stderr
    status = json.loads(run_sun("status", "--json", *run).stdout)
    assert status[0]["phase"] == "ready"
    assert status[0]["tasks"]["a"]["ready"] is True
    assert "a-0" in run_sun("status", *run).stdout
    assert run_sun("stop", *run).returncode == 0
    _, left = psutil.wait_procs(processes, timeout=SOON)
    assert left == []
    assert run_sun("status", *run).returncode == 1


def test_a_worker_that_cannot_start_ends_the_launch_with_its_log(models: Path, tmp_path: Path) -> None:
    file = models / "broken.yaml"
    broken = {**PAIR["pools"]["a"], "engine": {"max_total_tokens": 0}}
    file.write_text(yaml.safe_dump({**PAIR, "pools": {**PAIR["pools"], "a": broken}}))
    done = run_sun("launch", str(file), "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "ended 3 times before it was ready" in done.stderr
    assert "Traceback" in done.stderr or "Error" in done.stderr, "the end of the worker's log is shown"
    assert "ended before it was ready" in done.stdout, "and the end of each start before that one"


def test_worker_without_a_hook_ends_the_launch_and_is_not_started_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", "none-of-them")
    file = models / "unhooked.yaml"
    file.write_text(yaml.safe_dump(PAIR))
    done = run_sun("launch", str(file), "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "refuses to run: SGLANG_PLUGINS=none-of-them makes SGLang skip sun-sglang's hooks" in done.stderr
    assert {p.restarts for p in Deployment(tmp_path / "run").state.processes} == {0}
