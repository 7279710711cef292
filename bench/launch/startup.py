"""How long workers take to start and what they keep in memory: forked from one import, or each on its own.

    python -m sun_sglang.bench.launch.startup configs/demo/models/base --repetitions 3

Starts one and five decode workers both ways, interleaved, and writes every run and the medians to
`bench/results/startup.json`. A worker is ready when its `/health` answers 200: it has then generated. Where the machine
has GPUs, workers are started plainly only.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import psutil
import typer
from rich.console import Console
from rich.table import Table

from sun_sglang.launch.deployment import StartMethodName
from sun_sglang.launch.places.local.ports import free_ports
from sun_sglang.launch.places.local.start_methods import ForkStart, PlainStart, Running, StartMethod
from sun_sglang.launch.planning.engine_flags import load_flag_schema
from sun_sglang.launch.planning.machine import detect_machine
from sun_sglang.launch.planning.plan import LaunchPlan, make_plan
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.topology import parse_topology

_COUNTS = (1, 5)
_METHODS: tuple[StartMethodName, ...] = ("fork", "plain")
_DEADLINE = 300.0


def main(
    model: Annotated[Path, typer.Argument(help="A checkpoint.")],
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("bench/results/startup.json"),
) -> None:
    """Measure, print, and write the figures."""
    runs = []
    # workers on GPUs cannot be forked
    methods = _METHODS[1:] if detect_machine().gpus else _METHODS
    for repetition, count, method in product(range(repetitions), _COUNTS, methods):
        runs.append({"repetition": repetition, **asyncio.run(measure(model, count, method))})
        Console(stderr=True).print(runs[-1])
    medians = [summary(runs, count, method) for count, method in product(_COUNTS, methods)]
    report = {
        "command": f"python -m sun_sglang.bench.launch.startup {model.name} --repetitions {repetitions}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "python": platform.python_version(),
        "runs": runs,
        "median": medians,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _show(medians)


async def measure(model: Path, count: int, method: StartMethodName) -> dict[str, Any]:
    """Start `count` workers one way; seconds until all are ready, and MiB of all their processes together."""
    with tempfile.TemporaryDirectory() as directory:
        plan = _plan(model, count, Path(directory))
        start_method: StartMethod = (
            ForkStart(plan.run_dir / "logs" / "fork-server.log") if method == "fork" else PlainStart()
        )
        began = time.perf_counter()
        await start_method.open()
        workers = [w for w in plan.workers if w.role == "decode"]
        running = await asyncio.gather(*(start_method.start(w) for w in workers))
        async with aiohttp.ClientSession() as session, asyncio.timeout(_DEADLINE):
            await asyncio.gather(*(_ready(session, w.url) for w in workers))
        seconds = time.perf_counter() - began
        memory = _memory()
        await _end(running)
        await start_method.close()
        return {"workers": count, "method": method, "seconds": round(seconds, 2), "pss_mib": round(memory)}


def summary(runs: list[dict[str, Any]], count: int, method: str) -> dict[str, Any]:
    """Median, least and most of the runs of one kind."""
    own = [r for r in runs if (r["workers"], r["method"]) == (count, method)]
    seconds, memory = [r["seconds"] for r in own], [r["pss_mib"] for r in own]
    return {
        "workers": count,
        "method": method,
        "seconds": statistics.median(seconds),
        "seconds_range": [min(seconds), max(seconds)],
        "pss_mib": statistics.median(memory),
    }


def _plan(model: Path, count: int, run_dir: Path) -> LaunchPlan:
    text = f"""
pools:
  base: {{role: decode, model: {model.resolve()}, replicas: {count}}}
  same: {{role: prefill, model: {model.resolve()}}}
tasks:
  same: {{prefill: same, decode: base}}
"""
    topology = parse_topology(text, base=run_dir)
    machine, schema = detect_machine(), load_flag_schema()
    identities = preflight(topology, machine, schema).identities
    plan = make_plan(topology, machine, identities, run_dir=run_dir, ports=free_ports(), schema=schema)
    (run_dir / "logs").mkdir()
    return plan


async def _ready(session: aiohttp.ClientSession, url: str) -> None:
    while True:
        try:
            async with session.get(f"{url}/health") as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass  # it does not listen yet
        await asyncio.sleep(0.05)


def _memory() -> float:
    """MiB of all processes under this one; what several share is divided among them (PSS)."""
    return sum(p.memory_full_info().pss for p in psutil.Process().children(recursive=True)) / 2**20


async def _end(running: list[Running]) -> None:
    for process in psutil.Process().children(recursive=True):
        process.kill()
    for worker in running:
        await worker.wait()


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("workers", "start", "seconds", "range", "MiB in all")
    for r in rows:
        low, high = r["seconds_range"]
        table.add_row(
            str(r["workers"]), r["method"], f"{r['seconds']:.1f}", f"{low:.1f} to {high:.1f}", f"{r['pss_mib']}"
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
