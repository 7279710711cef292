"""Which decode policy is right under skew: time to first token and time a token, for each policy and each skew.

    python -m sun_sglang.bench.router.policies

One router over emulated workers, started anew for each policy and repetition, in another order each time: four tasks
with a prefill worker each, and four decode workers that all share. Requests come at random times (Poisson) for tasks
drawn by Zipf's law, continue one of a dozen conversations of their task, and want answers of very different lengths;
within a repetition every policy gets the same ones. The default policy also runs with the router as two and as four
processes, which share one port and see each other's load. Writes every cell to `bench/results/router_policies.json`.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import aiohttp
import psutil
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from sun_sglang.bench.router.policy_cluster import COSTS, TASKS, System, router, workers
from sun_sglang.bench.router.speed import percentile
from sun_sglang.topology import DecodePolicy, Policies

CONVERSATIONS = 12
LENGTHS = (8, 16, 32, 64, 256)
FIGURES = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms")


class Ask(NamedTuple):
    """One request: when, for whom, with which prompt, for how many tokens."""

    at: float
    task: str
    prompt: list[int]
    tokens: int


class Times(NamedTuple):
    """Seconds to the first token, and a token after it."""

    ttft: float
    tpot: float


def main(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 25.0,
    seconds: Annotated[float, typer.Option(min=1, help="Of requests, for each cell.")] = 12.0,
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    zipf: Annotated[list[float], typer.Option(help="Skews.")] = [0.0, 1.5, 3.0],  # noqa: B006 - typer copies it
    out: Annotated[Path, typer.Option()] = Path("bench/results/router_policies.json"),
) -> None:
    """Measure, print, and write the figures."""
    compared = systems()
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory, workers(Path(directory)) as fleet:
        for repetition in range(repetitions):
            turn = repetition * len(compared) // repetitions
            for system in compared[turn:] + compared[:turn]:
                with router(Path(directory), fleet, system) as url:
                    for skew in zipf:
                        asks = traffic(random.Random(f"{skew} {repetition}"), skew, rate, seconds)
                        load = os.getloadavg()[0]
                        times = uvloop.run(measure(url, asks))
                        cell = {"system": str(system), "zipf": skew, "repetition": repetition}
                        cells.append({**cell, "load_average": round(load, 2), **figures(times)})
                        Console(stderr=True).print(cells[-1])
    medians = summary(cells)
    report = {
        "command": f"python -m sun_sglang.bench.router.policies --rate {rate:g} --seconds {seconds:g} "
        f"--repetitions {repetitions}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "costs": COSTS,
        "median": medians,
        "cells": cells,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(medians)


def systems() -> list[System]:
    """Every decode policy, and the default one with several processes."""
    several = [System(Policies().decode, processes) for processes in (2, 4)]
    return [*(System(policy) for policy in get_args(DecodePolicy)), *several]


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
    """Send every request at its time, each over a connection of its own, and time its answer."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
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
    ttft, tpot = [t.ttft for t in times], [t.tpot for t in times]
    return {
        "requests": len(times),
        **{f"ttft_p{p}_ms": round(percentile(ttft, p) * 1e3, 1) for p in (50, 99)},
        **{f"tpot_p{p}_ms": round(percentile(tpot, p) * 1e3, 1) for p in (50, 99)},
    }


def summary(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every figure of a system at a skew: the median of the repetitions, the least and the most."""
    keys = dict.fromkeys((cell["system"], cell["zipf"]) for cell in cells)
    rows = []
    for system, zipf in keys:
        own = [cell for cell in cells if (cell["system"], cell["zipf"]) == (system, zipf)]
        each = {name: [cell[name] for cell in own] for name in FIGURES}
        spread = {name: [statistics.median(values), min(values), max(values)] for name, values in each.items()}
        rows.append({"system": system, "zipf": zipf, **spread})
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table("system", "zipf", *FIGURES)
    for row in rows:
        cells = ("{:.1f} ({:.1f} to {:.1f})".format(*row[name]) for name in FIGURES)
        table.add_row(row["system"], f"{row['zipf']:g}", *cells)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
