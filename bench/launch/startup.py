"""Time and memory of starting workers: forked from one import of SGLang, or each process on its own.

    python -m sun_sglang.bench.launch.startup configs/demo/models/base --repetitions 3

Starts one and five decode workers both ways, interleaved, and writes every run to `bench/results/launch_startup.json`.
A worker is ready when its `/health` returns 200: it has then generated a token. Workers on GPUs cannot be forked, so on
a machine with GPUs only the second way runs.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import aiohttp
import psutil
import typer
from rich.console import Console

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.launch.places.local.place import LocalPlace
from sun_sglang.launch.places.local.start_methods import StartMethodName
from sun_sglang.launch.places.place import Running, needs_of
from sun_sglang.launch.planning.flags.flag_schema import load_flag_schema
from sun_sglang.launch.planning.hardware.machine import detect_machine
from sun_sglang.launch.planning.plan import LaunchPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.topology_file import parse_topology

_COUNTS = (1, 5)
_METHODS: tuple[StartMethodName, ...] = ("fork", "plain")
_DEADLINE = 300.0


def main(
    model: Annotated[Path, typer.Argument(help="A checkpoint.")],
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "launch_startup.json",
) -> None:
    """Measure every start, print medians and write the report."""
    runs: list[Run] = []
    methods = _METHODS[1:] if detect_machine().gpus else _METHODS
    for repetition, count, method in product(range(repetitions), _COUNTS, methods):
        values = asyncio.run(measure_startup(model, count, method))
        runs.append(Run(case={"workers": count, "method": method}, repetition=repetition, values=values))
        Console(stderr=True).print(runs[-1])
    command = f"python -m sun_sglang.bench.launch.startup {model.name} --repetitions {repetitions}"
    report = new_report("launch_startup", command, runs, {"seconds": "s", "pss_mib": "MiB"})
    write_report(report, out)
    Console().print(median_table(report))


async def measure_startup(model: Path, count: int, method: StartMethodName) -> dict[str, float]:
    """Start `count` workers in one way.

    Args:
        model: a checkpoint.
        count: number of decode workers.
        method: `fork` or `plain`.

    Returns:
        `seconds` until all are ready, and `pss_mib`, the memory of all their processes together.
    """
    with tempfile.TemporaryDirectory() as directory:
        workers = [w for w in _plan(model, count, Path(directory)).workers if w.role == "decode"]
        place = LocalPlace(Path(directory) / "logs", method)
        slots = [await place.reserve(w.name, needs_of(w)) for w in workers]
        began = time.perf_counter()
        running = await asyncio.gather(*(place.start(slot, w) for slot, w in zip(slots, workers, strict=True)))
        async with aiohttp.ClientSession() as session:
            ready = (partial(_is_ready, session, worker.address.url) for worker in running)
            await asyncio.gather(*(wait_until(r, "a worker is ready", within=_DEADLINE, interval=0.05) for r in ready))
        seconds = time.perf_counter() - began
        memory = _memory()
        await _end(running)
        await place.close()
        return {"seconds": round(seconds, 2), "pss_mib": round(memory)}


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
    pools = preflight(topology, machine, schema).pools
    plan = make_plan(topology, machine, pools, run_dir=run_dir, router_port=1, schema=schema)
    (run_dir / "logs").mkdir()
    return plan


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health") as reply:
            return reply.status == 200
    except aiohttp.ClientError:
        return False


def _memory() -> float:
    """Return the memory of all descendants of this process in MiB; shared memory is divided among its users (PSS)."""
    return sum(p.memory_full_info().pss for p in psutil.Process().children(recursive=True)) / 2**20


async def _end(running: list[Running]) -> None:
    for process in psutil.Process().children(recursive=True):
        process.kill()
    for worker in running:
        await worker.wait()


if __name__ == "__main__":
    typer.run(main)
