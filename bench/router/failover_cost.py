"""The cost of failover while no worker is lost: CPU time of the router for each event of a stream.

    python -m sun_sglang.bench.router.failover_cost

Two routers, with and without failover, run before the same zero-cost workers, and get the same streams in turn. The
order changes with each repetition, so that both see the machine's other load alike. Prints medians and writes every run
to `bench/results/router_failover.json`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.router import peers
from sun_sglang.bench.router.load_client import stream_load

UNITS = {"load_average": "1", "chunks_per_s": "1/s", "cpu_us_per_chunk": "us", "memory_mib": "MiB"}
PATHS = ("/generate", "/v1/chat/completions")


def main(
    repetitions: Annotated[int, typer.Option(min=1)] = 9,
    seconds: Annotated[float, typer.Option(min=0.2, help="Duration of each measurement.")] = 4.0,
    streams: Annotated[int, typer.Option(min=1, help="Concurrent streams.")] = 128,
    rate: Annotated[float, typer.Option(help="Chunks a second over all streams.")] = 5_000,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "router_failover.json",
) -> None:
    """Measure both routers in turn, print medians and write the report."""
    runs: list[Run] = []
    ports = {state: peers.choose_ports() for state in ("on", "off")}
    workers = ports["on"]
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(peers.running_worker("prefill", workers.prefill))
        stack.enter_context(peers.running_worker("decode", workers.decode))
        routers = {}
        for state, own in ports.items():
            at = own._replace(prefill=workers.prefill, decode=workers.decode)
            lines = peers.sun_router(1, failover=state == "on")(at, directory)
            routers[state] = stack.enter_context(peers.running_balancer(state, lines, at.balancer, directory))
        for repetition in range(repetitions):
            order = ("on", "off") if repetition % 2 else ("off", "on")
            for path in PATHS:
                for state in order:
                    router = routers[state]
                    load = os.getloadavg()[0]
                    work = stream_load(
                        ports[state].balancer, count=streams, rate=rate, seconds=seconds, mark=router.cpu, path=path
                    )
                    chunks, cpu = uvloop.run(work)
                    values = {
                        "load_average": round(load, 2),
                        "chunks_per_s": chunks.rate,
                        "cpu_us_per_chunk": cpu / chunks.number * 1e6,
                        "memory_mib": router.memory(),
                    }
                    runs.append(Run(case={"failover": state, "path": path}, repetition=repetition, values=values))
                    Console(stderr=True).print(runs[-1])
    command = "python -m sun_sglang.bench.router.failover_cost"
    settings = {"repetitions": repetitions, "seconds": seconds, "streams": streams, "rate": rate}
    report = new_report("router_failover", command, runs, UNITS, settings=settings)
    write_report(report, out)
    Console().print(median_table(report))
    for path in PATHS:
        Console().print(f"{path}: {added_cpu(runs, path):+.1%} CPU for each event with failover (median of pairs)")


def added_cpu(runs: Sequence[Run], path: str) -> float:
    """Return by how much failover raises the CPU time of an event: the median over the repetitions.

    The two runs of a repetition follow each other, so they see nearly the same load of the machine.

    Args:
        runs: both states in each repetition.
        path: the endpoint.
    """
    of: dict[object, dict[int | None, float]] = {"on": {}, "off": {}}
    for run in runs:
        if run.case["path"] == path:
            of[run.case["failover"]][run.repetition] = run.values["cpu_us_per_chunk"]
    return statistics.median(cost / of["off"][repetition] - 1 for repetition, cost in of["on"].items())


if __name__ == "__main__":
    typer.run(main)
