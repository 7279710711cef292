"""How fast load balancers are: this project's router, SGLang's Rust router, and SGLang's mini load balancer.

    python -m sun_sglang.bench.router.speed --peer-python VENV/bin/python

`VENV` holds `sglang-router==0.3.2`; without it only this project's router is measured. Each repetition starts every
load balancer in turn (in another order each time) before the same zero-cost workers, one prefill and one decode, and
drives it with the same client. Prints medians with their range and writes every run to `bench/results/router.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import psutil
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from sun_sglang.bench.router import peers
from sun_sglang.bench.router.load_client import closed_loop, paced, streams
from sun_sglang.errors import UserError

DIRECT = "direct"


class Plan(NamedTuple):
    """What is measured.

    Attributes:
        connections: that ask for whole answers, each again at once.
        streams: at once.
        steady: chunks a second over all streams at which CPU a chunk is taken.
        most: chunks a second that are offered to see how many get through.
        rate: whole answers a second at which latency is taken.
        seconds: of each measurement.
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
    seconds: Annotated[float, typer.Option(min=0.2, help="Of each measurement.")] = 4.0,
    connections: Annotated[int, typer.Option(min=1)] = 32,
    concurrent_streams: Annotated[int, typer.Option("--streams", min=1)] = 256,
    steady: Annotated[float, typer.Option(help="Chunks a second at which CPU a chunk is taken.")] = 10_000,
    most: Annotated[float, typer.Option(help="Chunks a second that are offered at most.")] = 60_000,
    rate: Annotated[float, typer.Option(help="Requests a second at which latency is taken.")] = 100,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("bench/results/router.json"),
) -> None:
    """Measure, print, and write the figures."""
    plan = Plan(connections, concurrent_streams, steady, most, rate, seconds)
    commands: dict[str, peers.Command] = {"sun": peers.sun(1), "sun x2": peers.sun(2)}
    if peer_python:
        commands |= {"rust": peers.sglang(peer_python), "mini": peers.sglang(peer_python, "--mini-lb")}
    runs: list[dict[str, Any]] = []
    try:
        for repetition in range(repetitions):
            turn = repetition % len(commands)
            names = [*commands][turn:] + [*commands][:turn]
            for name in names:
                runs.append({"repetition": repetition, **measure(name, commands[name], plan)})
                Console(stderr=True).print(runs[-1])
    except UserError as e:
        Console(stderr=True).print(f"[red]{e}[/]")
        raise typer.Exit(1) from e
    medians = {name: summary([r for r in runs if r["name"] == name]) for name in commands}
    report = {
        "command": "python -m sun_sglang.bench.router.speed",
        "plan": plan._asdict(),
        "repetitions": repetitions,
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "python": platform.python_version(),
        "median": medians,
        "runs": runs,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(medians)


def measure(name: str, command: peers.Command, plan: Plan) -> dict[str, Any]:
    """Every figure of one load balancer, in one start of it and of the workers."""
    ports = peers.ports()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(peers.worker("prefill", ports.prefill))
        stack.enter_context(peers.worker("decode", ports.decode))
        running = stack.enter_context(peers.balancer(name, command(ports, directory), ports.balancer, directory))
        load = os.getloadavg()[0]
        return {"name": name, "load_average": round(load, 2), **uvloop.run(_figures(running, ports, plan))}


async def _figures(running: peers.Running, ports: peers.Ports, plan: Plan) -> dict[str, float]:
    port = ports.balancer
    await closed_loop(port, connections=plan.connections, seconds=min(1.0, plan.seconds))  # warm
    before = running.cpu()
    whole = await closed_loop(port, connections=plan.connections, seconds=plan.seconds)
    whole_cpu = running.cpu() - before
    most, most_cpu = await streams(port, count=plan.streams, rate=plan.most, seconds=plan.seconds, mark=running.cpu)
    steady, steady_cpu = await streams(
        port, count=plan.streams, rate=plan.steady, seconds=plan.seconds, mark=running.cpu
    )
    direct = await paced(ports.decode, rate=plan.rate, seconds=plan.seconds)
    through = await paced(port, rate=plan.rate, seconds=plan.seconds)
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
    """A percentile, between the two nearest values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Median and range of every figure."""
    figures = [k for k in runs[0] if k not in ("name", "repetition")]
    return {
        k: {
            "median": round(statistics.median(r[k] for r in runs), 3),
            "least": round(min(r[k] for r in runs), 3),
            "most": round(max(r[k] for r in runs), 3),
        }
        for k in figures
    }


def show(median: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print the table."""
    table = Table("figure", *median)
    for figure in next(iter(median.values())):
        cells = [_cell(own[figure]) for own in median.values()]
        table.add_row(figure, *cells)
    Console().print(table)


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['median']:,.2f} ({figure['least']:,.2f} to {figure['most']:,.2f})"


if __name__ == "__main__":
    typer.run(main)
