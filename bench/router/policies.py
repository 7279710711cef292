"""Decode policies under skewed traffic: time to first token and time per output token.

    python -m sun_sglang.bench.router.policies

Runs one router over emulated workers, restarted for each policy and repetition, in another order each time. Four tasks
have a prefill worker each and share four decode workers. Requests arrive at random times (Poisson) for tasks drawn by
Zipf's law, continue one of a dozen conversations of their task, and request answers of very different lengths; within a
repetition every policy gets the same requests. The default policy also runs with the router as two and as four
processes, which share one port and each other's load. Writes every run to `bench/results/router_policies.json`.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, get_args

import aiohttp
import typer
import uvloop
from rich.console import Console

from sun_sglang.bench.report import RESULTS, Case, Run, median_table, new_report, write_report
from sun_sglang.bench.router.policy_cluster import COSTS, TASKS, RouterSetup, running_router_setup, running_workers
from sun_sglang.bench.router.speed import percentile
from sun_sglang.topology import DecodePolicy, Policies

CONVERSATIONS = 12
LENGTHS = (8, 16, 32, 64, 256)
UNITS = {
    "load_average": "1",
    "requests": "1",
    **dict.fromkeys(("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms"), "ms"),
}


class TimedRequest(NamedTuple):
    """One request.

    Attributes:
        at: seconds after the start at which it is sent.
        task: its task.
        prompt: token ids.
        tokens: tokens to generate.
    """

    at: float
    task: str
    prompt: list[int]
    tokens: int


class RequestTimes(NamedTuple):
    """Seconds to the first token, and per output token after it."""

    ttft: float
    tpot: float


def main(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 25.0,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of traffic for each policy and skew.")] = 12.0,
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    zipf: Annotated[list[float], typer.Option(help="Exponents of Zipf's law; 0: no skew.")] = [0.0, 1.5, 3.0],  # noqa: B006 - typer copies it
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "router_policies.json",
) -> None:
    """Measure every policy at every skew, print medians and write the report."""
    compared = systems()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as directory, running_workers(Path(directory)) as fleet:
        for repetition in range(repetitions):
            turn = repetition * len(compared) // repetitions
            for system in compared[turn:] + compared[:turn]:
                with running_router_setup(Path(directory), fleet, system) as url:
                    for skew in zipf:
                        requests = traffic(random.Random(f"{skew} {repetition}"), skew, rate, seconds)
                        load = os.getloadavg()[0]
                        times = uvloop.run(measure_times(url, requests))
                        values = {"load_average": round(load, 2), **percentiles(times)}
                        case: Case = {"system": str(system), "zipf": skew}
                        runs.append(Run(case=case, repetition=repetition, values=values))
                        Console(stderr=True).print(runs[-1])
    options = {"rate": rate, "seconds": seconds, "repetitions": repetitions}
    command = " ".join(
        ["python -m sun_sglang.bench.router.policies", *(f"--{key} {value:g}" for key, value in options.items())]
    )
    report = new_report("router_policies", command, runs, UNITS, settings={"costs": dict(COSTS), **options})
    write_report(report, out)
    Console().print(median_table(report))


def systems() -> list[RouterSetup]:
    """Return every decode policy, and the default one with several router processes."""
    several = [RouterSetup(Policies().decode, processes) for processes in (2, 4)]
    return [*(RouterSetup(policy) for policy in get_args(DecodePolicy)), *several]


def traffic(rng: random.Random, skew: float, rate: float, seconds: float) -> list[TimedRequest]:
    """Return the requests of one measurement; the same for the same state of `rng`.

    Args:
        rng: source of randomness.
        skew: exponent of Zipf's law, by which tasks are drawn.
        rate: mean requests a second.
        seconds: duration of the traffic.
    """
    weights = [1 / (rank + 1) ** skew for rank in range(len(TASKS))]
    shared = {(task, i): [rng.randrange(1000) for _ in range(128)] for task in TASKS for i in range(CONVERSATIONS)}
    requests, at = [], 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        task = rng.choices(TASKS, weights)[0]
        prompt = shared[task, rng.randrange(CONVERSATIONS)] + [rng.randrange(1000) for _ in range(32)]
        requests.append(TimedRequest(at, task, prompt, rng.choice(LENGTHS)))
    return requests


async def measure_times(url: str, requests: Sequence[TimedRequest]) -> list[RequestTimes]:
    """Send every request at its time, each over a connection of its own, and return the times of its answer."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as client:
        began = time.perf_counter()

        async def one(request: TimedRequest) -> RequestTimes:
            await asyncio.sleep(began + request.at - time.perf_counter())
            sent = time.perf_counter()
            limit = {"max_new_tokens": request.tokens}
            body = {"model": request.task, "input_ids": request.prompt, "sampling_params": limit, "stream": True}
            first = last = 0.0
            async with client.post("/generate", json=body) as reply:
                reply.raise_for_status()
                async for line in reply.content:
                    if line.startswith(b"data: {"):
                        last = time.perf_counter()
                        first = first or last
            return RequestTimes(first - sent, (last - first) / (request.tokens - 1))

        return await asyncio.gather(*(one(request) for request in requests))


def percentiles(times: Sequence[RequestTimes]) -> dict[str, float]:
    """Return the number of requests and the percentiles of their times, in milliseconds."""
    ttft, tpot = [t.ttft for t in times], [t.tpot for t in times]
    return {
        "requests": len(times),
        **{f"ttft_p{p}_ms": round(percentile(ttft, p) * 1e3, 1) for p in (50, 99)},
        **{f"tpot_p{p}_ms": round(percentile(tpot, p) * 1e3, 1) for p in (50, 99)},
    }


if __name__ == "__main__":
    typer.run(main)
