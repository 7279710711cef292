"""Speed of load balancers: this project's router, SGLang's Rust router and SGLang's mini load balancer.

    python -m sun_sglang.bench.router.speed --peer-python VENV/bin/python

`VENV` holds `sglang-router==0.3.2`; without it only this project's router is measured. Each repetition starts the load
balancers one after the other, in another order each time, before the same zero-cost workers (one prefill, one decode)
and sends them the same requests. Prints medians and writes every run to `bench/results/router_speed.json`.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
import uvloop
from rich.console import Console

from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.router import peers
from sun_sglang.bench.router.load_client import closed_loop, paced_load, stream_load
from sun_sglang.errors import UserError

UNITS = {
    "load_average": "1",
    "requests_per_s": "1/s",
    "cpu_s_per_1000_requests": "s",
    "chunks_per_s": "1/s",
    "cpu_us_per_chunk_at_most": "us",
    "steady_chunks_per_s": "1/s",
    "cpu_us_per_chunk": "us",
    "added_p50_ms": "ms",
    "added_p99_ms": "ms",
    "memory_mib": "MiB",
}


class Plan(NamedTuple):
    """The load of one measurement.

    Attributes:
        connections: connections that request whole answers, each one after the other without a pause.
        streams: concurrent streams.
        steady: chunks a second over all streams, for the CPU time of a chunk.
        most: chunks a second that the worker offers, to measure how many get through.
        rate: whole answers a second, for the latency.
        seconds: duration of each measurement.
    """

    connections: int
    streams: int
    steady: float
    most: float
    rate: float
    seconds: float


def main(
    peer_python: Annotated[str, typer.Option(help="A Python that can import sglang_router; empty: no peers.")] = "",
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=0.2, help="Duration of each measurement.")] = 4.0,
    connections: Annotated[int, typer.Option(min=1)] = 32,
    concurrent_streams: Annotated[int, typer.Option("--streams", min=1)] = 256,
    steady: Annotated[float, typer.Option(help="Chunks a second for the CPU time of a chunk.")] = 10_000,
    most: Annotated[float, typer.Option(help="Chunks a second that the worker offers at most.")] = 60_000,
    rate: Annotated[float, typer.Option(help="Requests a second for the latency.")] = 100,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "router_speed.json",
) -> None:
    """Measure every load balancer, print medians and write the report."""
    plan = Plan(connections, concurrent_streams, steady, most, rate, seconds)
    commands: dict[str, peers.Command] = {"sun": peers.sun_router(1), "sun x2": peers.sun_router(2)}
    if peer_python:
        commands |= {"rust": peers.sglang_router(peer_python), "mini": peers.sglang_router(peer_python, "--mini-lb")}
    runs: list[Run] = []
    try:
        for repetition in range(repetitions):
            turn = repetition % len(commands)
            for name in [*commands][turn:] + [*commands][:turn]:
                values = measure_speed(name, commands[name], plan)
                runs.append(Run(case={"balancer": name}, repetition=repetition, values=values))
                Console(stderr=True).print(runs[-1])
    except UserError as e:
        Console(stderr=True).print(f"[red]{e}[/]")
        raise typer.Exit(1) from e
    command = "python -m sun_sglang.bench.router.speed"
    report = new_report("router_speed", command, runs, UNITS, settings={**plan._asdict(), "repetitions": repetitions})
    write_report(report, out)
    Console().print(median_table(report))


def measure_speed(name: str, command: peers.Command, plan: Plan) -> dict[str, float]:
    """Start one load balancer and its workers, and return the value of every quantity in `UNITS`.

    Args:
        name: the load balancer's name, for errors.
        command: returns its command lines.
        plan: the load.

    Raises:
        PeerError: the load balancer does not start.
        LoadError: a request fails.
    """
    with peers.running_system(name, command) as (running, ports):
        load = os.getloadavg()[0]
        return {"load_average": round(load, 2), **uvloop.run(_values(running, ports, plan))}


async def _values(running: peers.ProcessTree, ports: peers.Ports, plan: Plan) -> dict[str, float]:
    port = ports.balancer
    await closed_loop(port, connections=plan.connections, seconds=min(1.0, plan.seconds))  # warm-up
    before = running.cpu()
    whole = await closed_loop(port, connections=plan.connections, seconds=plan.seconds)
    whole_cpu = running.cpu() - before
    most, most_cpu = await stream_load(port, count=plan.streams, rate=plan.most, seconds=plan.seconds, mark=running.cpu)
    steady, steady_cpu = await stream_load(
        port, count=plan.streams, rate=plan.steady, seconds=plan.seconds, mark=running.cpu
    )
    direct = await paced_load(ports.decode, rate=plan.rate, seconds=plan.seconds)
    through = await paced_load(port, rate=plan.rate, seconds=plan.seconds)
    return {
        "requests_per_s": whole.rate,
        "cpu_s_per_1000_requests": whole_cpu / whole.number * 1000,
        "chunks_per_s": most.rate,
        "cpu_us_per_chunk_at_most": most_cpu / most.number * 1e6,
        "steady_chunks_per_s": steady.rate,
        "cpu_us_per_chunk": steady_cpu / steady.number * 1e6,
        "added_p50_ms": (percentile(through, 50) - percentile(direct, 50)) * 1e3,
        "added_p99_ms": (percentile(through, 99) - percentile(direct, 99)) * 1e3,
        "memory_mib": running.memory(),
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, interpolated between the two nearest values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    typer.run(main)
