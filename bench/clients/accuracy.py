"""Load engines before a server whose times are known: what each measures, and what it costs.

    python -m sun_sglang.bench.clients.accuracy --aiperf-python VENV/bin/python --tokenizer build/smollm2/base

`VENV` holds `aiperf==0.13.0`; without it only `sun bench` is measured. Each repetition runs the engines one after the
other, in another order each time, before a new server. Prints medians and writes every run to
`bench/results/clients_accuracy.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
import uvloop
from rich.console import Console

from sun_sglang.bench.clients.engines import AIPerf, Engine, Load, SunBench, measure
from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.errors import UserError
from sun_sglang.launch.places.local.ports import free_ports

UNITS = {
    "ttft_ms": "ms",
    "itl_ms": "ms",
    "requests": "1",
    "cpu_s": "s",
    "memory_mib": "MiB",
    "wall_s": "s",
    "server_late_mean_ms": "ms",
    "server_late_p99_ms": "ms",
}


def main(
    aiperf_python: Annotated[str, typer.Option(help="A Python beside `aiperf`; empty: without AIPerf.")] = "",
    tokenizer: Annotated[Path, typer.Option(help="A folder with a tokenizer, for AIPerf.")] = Path(
        "build/smollm2/base"
    ),
    streams: Annotated[str, typer.Option(help="Streams at a time, one or more numbers.")] = "128,512",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 400,
    ttft: Annotated[float, typer.Option(help="Seconds to the first token.")] = 0.1,
    itl: Annotated[float, typer.Option(help="Seconds between two tokens.")] = 0.05,
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "clients_accuracy.json",
) -> None:
    """Measure each engine, print medians and write the report."""
    engines: list[Engine] = [SunBench(), *([AIPerf(aiperf_python, tokenizer)] if aiperf_python else [])]
    loads = [Load(int(number), tokens) for number in streams.split(",")]
    runs: list[Run] = []
    try:
        for repetition in range(repetitions):
            turn = repetition % len(engines)
            for load in loads:
                for engine in engines[turn:] + engines[:turn]:
                    case: dict[str, str | int | float | bool] = {"engine": engine.name, "streams": load.streams}
                    values = _run(engine, load, ttft, itl)
                    runs.append(Run(case=case, repetition=repetition, values=values))
                    Console(stderr=True).print(runs[-1])
    except UserError as e:
        Console(stderr=True).print(f"[red]{e}[/]")
        raise typer.Exit(1) from e
    settings = {"tokens": tokens, "ttft_s": ttft, "itl_s": itl, "repetitions": repetitions}
    command = f"python -m sun_sglang.bench.clients.accuracy --streams {streams} --tokens {tokens}"
    report = new_report("clients_accuracy", command, runs, UNITS, settings=settings)
    write_report(report, out)
    Console().print(median_table(report))


def _run(engine: Engine, load: Load, ttft: float, itl: float) -> dict[str, float]:
    """Start a server, run an engine before it, and return the value of every quantity in `UNITS`."""
    port = next(free_ports())
    times = ["--port", str(port), "--ttft", str(ttft), "--itl", str(itl)]
    command = [sys.executable, "-m", "sun_sglang.bench.clients.timed_server", *times]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            url = f"http://127.0.0.1:{port}"
            uvloop.run(_listening(url))
            began = time.monotonic()
            measured = measure(engine, url, load, Path(folder) / "engine")
            wall = time.monotonic() - began
        finally:
            server.terminate()
            printed, _ = server.communicate()
    late: dict[str, Any] = json.loads(printed)["late_ms"]
    own = {"server_late_mean_ms": late["mean"], "server_late_p99_ms": late["p99"]}
    return {**measured._asdict(), "wall_s": wall, **own}


async def _listening(url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def answers() -> bool:
            try:
                async with session.get(f"{url}/v1/models") as reply:
                    return reply.status == 200
            except aiohttp.ClientError:
                return False

        await wait_until(answers, "the server listens")


if __name__ == "__main__":
    typer.run(main)
