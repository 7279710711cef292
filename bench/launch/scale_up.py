"""Time from the decision to start one more decode worker until it makes its first token, by start method.

    python -m sun_sglang.bench.launch.scale_up configs/demo/models/base --repetitions 3

Launches a decode pool of one worker that sizes itself, with costs by which any load needs two workers, and sends
requests until the pool decides to grow. The time is from the decision in the launcher's state file to the first token
of the first request that finds the new worker ready, which is the emptier one. Every run goes to
`bench/results/launch_scale_up.json`. Workers on GPUs cannot be forked, so there only `plain` runs.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
import yaml
from rich.console import Console

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import run_sun
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.launch.places.local.start_methods import StartMethodName
from sun_sglang.launch.planning.hardware.machine import detect_machine
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import DeploymentState, read_state

_METHODS: tuple[StartMethodName, ...] = ("fork", "plain")
_DEADLINE = 300.0
_POLL = 0.02
# the SLO is met without context, and any context needs every worker that there may be
_COSTS = {"decode_step": 0.001, "decode_per_context_token": 1.0}


def main(
    model: Annotated[Path, typer.Argument(help="A checkpoint, for both sides.")],
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "launch_scale_up.json",
) -> None:
    """Measure every start, print medians and write the report."""
    runs: list[Run] = []
    methods = _METHODS[1:] if detect_machine().gpus else _METHODS
    for repetition, method in product(range(repetitions), methods):
        values = measure(model.resolve(), method)
        runs.append(Run(case={"method": method}, repetition=repetition, values=values))
        Console(stderr=True).print(runs[-1])
    command = f"python -m sun_sglang.bench.launch.scale_up {model.name} --repetitions {repetitions}"
    report = new_report("launch_scale_up", command, runs, {"ready": "s", "first_token": "s"})
    write_report(report, out)
    Console().print(median_table(report))


def measure(model: Path, method: StartMethodName) -> dict[str, float]:
    """Let one deployment grow from one decode worker to two.

    Args:
        model: a checkpoint.
        method: `fork` or `plain`.

    Returns:
        Seconds from the decision until the new worker is `ready`, and until its `first_token`.
    """
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        run_dir = home / "run"
        (home / "costs.yaml").write_text(yaml.safe_dump(_COSTS))
        (home / "sun.yaml").write_text(yaml.safe_dump(_topology(model), sort_keys=False))
        launched = run_sun(
            "launch",
            str(home / "sun.yaml"),
            "--detach",
            "--run-dir",
            str(run_dir),
            "--start",
            method,
            timeout=_DEADLINE,
        )
        if launched.returncode:
            raise RuntimeError(launched.stdout + launched.stderr)
        try:
            return asyncio.run(_grow(run_dir))
        finally:
            run_sun("stop", "--run-dir", str(run_dir), "--now")


def _topology(model: Path) -> dict[str, Any]:
    return {
        "pools": {
            "base": {"role": "decode", "model": str(model)},
            "same": {"role": "prefill", "model": str(model)},
        },
        "tasks": {"same": {"prefill": "same", "decode": "base"}},
        "router": {"port": 0, "probe_interval": 0.1},
        "autoscale": {
            "pool": "base",
            "max": 2,
            "slo": {"tpot": 0.1},
            "window": 1.0,
            "costs": "costs.yaml",
        },
    }


async def _grow(run_dir: Path) -> dict[str, float]:
    url = _state(run_dir).url
    async with (
        aiohttp.ClientSession() as session,
        RouterClient(url, read_access(run_dir)) as router,
    ):
        load = asyncio.create_task(_load(session, url))
        try:
            await wait_until(lambda: _state(run_dir).sizes[0].changes, "the decision", within=60.0, interval=_POLL)
            began = time.perf_counter()
            await wait_until(lambda: _is_ready(router), "the new worker", within=_DEADLINE, interval=_POLL)
            ready = time.perf_counter() - began
            await _first_token(session, url)
            return {"ready": round(ready, 2), "first_token": round(time.perf_counter() - began, 2)}
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)


async def _load(session: aiohttp.ClientSession, url: str) -> None:
    while True:
        async with session.post(f"{url}/generate", json=_body(200)) as reply:
            await reply.read()


async def _first_token(session: aiohttp.ClientSession, url: str) -> None:
    async with session.post(f"{url}/generate", json={**_body(2), "stream": True}) as reply:
        await reply.content.readline()


def _body(tokens: int) -> dict[str, Any]:
    return {
        "model": "same",
        "text": "one two three",
        "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True},
    }


async def _is_ready(router: RouterClient) -> bool:
    report = await router.tasks()
    return report is not None and any(w.name == "base-1" and w.state == "ready" for w in report.workers.values())


def _state(run_dir: Path) -> DeploymentState:
    state = read_state(run_dir)
    assert state is not None, "the launcher has written it"
    return state


if __name__ == "__main__":
    typer.run(main)
