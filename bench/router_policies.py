"""Which decode policy is right under skew: time to first token and time a token, for each policy and each skew.

    python -m sun_sglang.bench.router_policies

One router over emulated workers, started anew for each decode policy: four tasks with a prefill worker each, and four
decode workers that all share. Requests come at random times (Poisson) for tasks drawn by Zipf's law, continue one of a
dozen conversations of their task, and want answers of very different lengths; every policy gets the same ones. Writes
every cell to `bench/results/router_policies.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import aiohttp
import psutil
import typer
import uvloop
import yaml
from rich.console import Console
from rich.table import Table

from sun_sglang.bench.router_speed import percentile
from sun_sglang.launch.processes import free_ports
from sun_sglang.topology import DecodePolicy

TASKS = ("a", "b", "c", "d")
DECODERS = 4
CONVERSATIONS = 12
LENGTHS = (8, 16, 32, 64, 256)
COSTS = {
    "decode_step": 0.010,
    "decode_per_request": 0.0015,
    "prefill": 0.003,
    "prefill_per_token": 0.00002,
    "transfer": 0.001,
    "transfer_per_byte": 2e-10,
    "kv_tokens": 20_000,
}
READY_S = 60.0


class Ask(NamedTuple):
    """One request: when, for whom, with which prompt, for how many tokens."""

    at: float
    task: str
    prompt: list[int]
    tokens: int


class Times(NamedTuple):
    """Seconds to the first token, and a token after it; None for an answer of one piece."""

    ttft: float
    tpot: float | None


def main(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 25.0,
    seconds: Annotated[float, typer.Option(min=1, help="Of requests, for each cell.")] = 12.0,
    zipf: Annotated[list[float], typer.Option(help="Skews.")] = [0.0, 1.5, 3.0],  # noqa: B006 - typer copies it
    out: Annotated[Path, typer.Option()] = Path("bench/results/router_policies.json"),
) -> None:
    """Measure, print, and write the figures."""
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory, workers(Path(directory)) as fleet:
        for policy in get_args(DecodePolicy):
            with router(Path(directory), fleet, policy) as url:
                for skew in zipf:
                    asks = traffic(random.Random(f"{skew}"), skew, rate, seconds)
                    load = os.getloadavg()[0]
                    times = uvloop.run(measure(url, asks))
                    cells.append({"policy": policy, "zipf": skew, "load_average": round(load, 2), **figures(times)})
                    Console(stderr=True).print(cells[-1])
    report = {
        "command": f"python -m sun_sglang.bench.router_policies --rate {rate:g} --seconds {seconds:g}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "costs": COSTS,
        "cells": cells,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(cells)


def traffic(rng: random.Random, skew: float, rate: float, seconds: float) -> list[Ask]:
    """The requests of one cell; the same for every policy."""
    weights = [1 / (rank + 1) ** skew for rank in range(len(TASKS))]
    shared = {(task, i): [rng.randrange(1000) for _ in range(128)] for task in TASKS for i in range(CONVERSATIONS)}
    asks, at = [], 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        task = rng.choices(TASKS, weights)[0]
        prompt = shared[task, rng.randrange(CONVERSATIONS)] + [rng.randrange(1000) for _ in range(32)]
        asks.append(Ask(at, task, prompt, rng.choice(LENGTHS)))
    return asks


async def measure(url: str, asks: Sequence[Ask]) -> list[Times]:
    """Send every request at its time, and time its answer."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as client:
        began = time.perf_counter()

        async def one(ask: Ask) -> Times:
            await asyncio.sleep(began + ask.at - time.perf_counter())
            sent = time.perf_counter()
            limit = {"max_new_tokens": ask.tokens}
            body = {"model": ask.task, "input_ids": ask.prompt, "sampling_params": limit, "stream": True}
            first = last = 0.0
            async with client.post("/generate", json=body) as reply:
                reply.raise_for_status()
                async for line in reply.content:
                    if line.startswith(b"data: {"):
                        last = time.perf_counter()
                        first = first or last
            return Times(first - sent, (last - first) / (ask.tokens - 1))

        return await asyncio.gather(*(one(ask) for ask in asks))


def figures(times: Sequence[Times]) -> dict[str, float]:
    """Percentiles, in milliseconds."""
    ttft, tpot = [t.ttft for t in times], [t.tpot for t in times if t.tpot is not None]
    return {
        "requests": len(times),
        **{f"ttft_p{p}_ms": round(percentile(ttft, p) * 1e3, 1) for p in (50, 99)},
        **{f"tpot_p{p}_ms": round(percentile(tpot, p) * 1e3, 1) for p in (50, 99)},
    }


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
                argv = [sys.executable, "-m", "sun_sglang.sim.worker", "--model-path", f"none/{pool}"]
                argv += ["--disaggregation-mode", role, "--port", str(port), "--sim-costs", str(costs)]
                argv += ["--disaggregation-bootstrap-port", str(next(ports)), "--sim-vocab-size", "1000"]
                stack.enter_context(_process([*argv, "--disaggregation-decode-enable-radix-cache"]))
                fleet["workers"].append({"name": f"{pool}-{i}", "pool": pool, "url": f"http://127.0.0.1:{port}"})
        yield fleet


@contextlib.contextmanager
def router(directory: Path, fleet: dict[str, Any], policy: str) -> Iterator[str]:
    """A router with a decode policy, once every path is proven."""
    port = next(free_ports())
    file = directory / "fleet.json"
    file.write_text(json.dumps({**fleet, "router": {"port": port, "policy": {"decode": policy}}}))
    url = f"http://127.0.0.1:{port}"
    with _process([sys.executable, "-m", "sun_sglang.router", str(file)]):
        asyncio.run(_until_proven(url))
        yield url


async def _until_proven(url: str) -> None:
    async with aiohttp.ClientSession(url) as client, asyncio.timeout(READY_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get("/tasks") as reply:
                    tasks = (await reply.json())["tasks"].values()
                    if all(len(task["paths"]) == DECODERS for task in tasks):
                        return
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def show(cells: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(*(k for k in cells[0] if k != "load_average"))
    for cell in cells:
        table.add_row(*(str(v) for k, v in cell.items() if k != "load_average"))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
