"""The cost of failover while nothing fails: the router's CPU time for an event, and its memory for a token.

    python -m sun_sglang.bench.failover.cost

The same zero-cost workers stream the same tokens through a router whose task has failover, and through one whose task
has not. Each repetition starts the routers one after the other, in another order each time. `memory_bytes_per_token` is
the growth of the router's own memory while the streams run, divided by the tokens of that time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.router import peers
from sun_sglang.bench.router.load_client import stream_load

UNITS = {"chunks_per_s": "1/s", "cpu_us_per_chunk": "us", "memory_bytes_per_token": "B"}
ENDPOINTS = {"generate": False, "chat": True}


def main(
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=0.2, help="Duration of each measurement.")] = 12.0,
    concurrent_streams: Annotated[int, typer.Option("--streams", min=1)] = 256,
    rate: Annotated[float, typer.Option(help="Chunks a second over all streams.")] = 15_000,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "failover_cost.json",
) -> None:
    """Measure both, print medians and write the report."""
    runs: list[Run] = []
    for repetition in range(repetitions):
        for failover in (True, False) if repetition % 2 else (False, True):
            for endpoint, chat in ENDPOINTS.items():
                values = measure_cost(failover, chat, concurrent_streams, rate, seconds)
                runs.append(
                    Run(case={"failover": failover, "endpoint": endpoint}, repetition=repetition, values=values)
                )
                Console(stderr=True).print(runs[-1])
    settings = {"repetitions": repetitions, "seconds": seconds, "streams": concurrent_streams, "rate": rate}
    report = new_report("failover_cost", "python -m sun_sglang.bench.failover.cost", runs, UNITS, settings={**settings})
    write_report(report, out)
    Console().print(median_table(report))


def measure_cost(failover: bool, chat: bool, streams: int, rate: float, seconds: float) -> dict[str, float]:
    """Return the value of every quantity in `UNITS`.

    Args:
        failover: whether the task has it.
        chat: stream chat completions, and not `/generate`.
        streams: concurrent streams.
        rate: chunks a second over all of them; each has one token.
        seconds: duration.

    Raises:
        PeerError: the router does not start.
        LoadError: a request fails.
    """
    memory: list[float] = []
    with peers.running_system("sun", peers.sun_router(1, failover=failover)) as (running, ports):

        def mark() -> float:
            memory.append(running.memory())
            return running.cpu()

        load = stream_load(ports.balancer, count=streams, rate=rate, seconds=seconds, mark=mark, chat=chat)
        arrived, cpu = uvloop.run(load)
    return {
        "chunks_per_s": arrived.rate,
        "cpu_us_per_chunk": cpu / arrived.number * 1e6,
        "memory_bytes_per_token": (memory[-1] - memory[0]) * 2**20 / arrived.number,
    }


if __name__ == "__main__":
    typer.run(main)
