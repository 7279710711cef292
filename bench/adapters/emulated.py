"""Hundreds of tasks that are adapters, on two prefill and two decode emulated workers: what each of them costs.

    python -m sun_sglang.bench.adapters.emulated
    python -m sun_sglang.bench.adapters.emulated --tasks 400 --repetitions 3 --blocks 30 --width 576

Launches the deployment with one and with many tasks, and measures the time until every task is ready on every worker,
the router's memory and `/tasks`. Then `sun bench` sends traffic twice, and the second time tasks are added meanwhile
through the admin API, one after another. Writes every run to `bench/results/adapters_emulated.json`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from sun_sglang.bench.adapters.adding import UNITS as ADDING_UNITS
from sun_sglang.bench.adapters.adding import add_under_traffic
from sun_sglang.bench.adapters.deployment import AdapterDeployment, Read, launched, many_tasks, read_tasks
from sun_sglang.bench.adapters.random_adapters import plain_sizes, write_adapters
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report

# Assumed, for all workers: nothing here is fitted to a machine. `lora_load` is about the time in which SGLang reads an
# adapter of a few megabytes into host memory.
COSTS = {
    "decode_step": 0.01,
    "prefill": 0.01,
    "prefill_per_token": 0.0001,
    "transfer": 0.001,
    "lora_load": 0.02,
    "lora_slot": 0.002,
    "kv_tokens": 100_000,
}
LOAD = {
    "--zipf": "1.5",
    "--concurrency": "8",
    "--isl": "32",
    "--osl": "16",
    "--token-ids": "0:999",
    "--warmup-duration": "2",
    "--max-client-lag": "1000",
}
UNITS = {
    "launch_s": "s",
    "ready_s": "s",
    "router_mib": "MiB",
    "prefill_mib": "MiB",
    "decode_mib": "MiB",
    "tasks_ms": "ms",
    "tasks_kib": "KiB",
    "adapter_kib": "KiB",
    **ADDING_UNITS,
}
WORKERS = 2
"""Prefill workers, and decode workers."""

_READS = 20


def main(
    tasks: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of tasks; repeat it (1, 100, 400).")] = None,
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    added: Annotated[int, typer.Option(min=1, help="Tasks added under traffic.")] = 10,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each window of traffic.")] = 15.0,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks that an adapter changes.")] = 1,
    width: Annotated[int, typer.Option(min=1, help="Width of its layers: with --blocks, the size of its file.")] = 8,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "adapters_emulated.json",
) -> None:
    """Measure every number of tasks, print the medians and write the report."""
    counts, runs = tasks or [1, 100, 400], list[Run]()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as temporary:
        # repetitions are interleaved, so that a drift of the machine meets every number of tasks
        for repetition in range(repetitions):
            for count in counts:
                folder = Path(temporary) / f"{count}-{repetition}"
                values = _measure(folder, count, added, seconds, blocks, width)
                runs.append(Run(case={"tasks": count}, repetition=repetition, values=values))
                console.print(runs[-1])
    options = {"repetitions": repetitions, "added": added, "seconds": seconds, "blocks": blocks, "width": width}
    flags = [f"--tasks {count}" for count in counts] + [f"--{name} {value:g}" for name, value in options.items()]
    command = " ".join(["python -m sun_sglang.bench.adapters.emulated", *flags])
    report = new_report("adapters_emulated", command, runs, UNITS, settings={"costs": COSTS, "load": LOAD, **options})
    write_report(report, out)
    Console().print(median_table(report))


def _measure(folder: Path, count: int, added: int, seconds: float, blocks: int, width: int) -> dict[str, float]:
    adapters = write_adapters(plain_sizes(blocks, width), folder / "adapters", count + added, rank=8)
    first, later = adapters[:count], adapters[count:]
    (folder / "costs.yaml").write_text(yaml.safe_dump(COSTS))
    emulated = {"backend": "emulated", "emulated": {"costs": "costs.yaml", "vocab_size": 1000}}
    with launched(folder, many_tasks("none/base", first, replicas=WORKERS) | emulated) as (deployment, times):
        values = {
            "adapter_kib": (first[0] / "adapter_model.safetensors").stat().st_size / 1024,
            "launch_s": times.launched,
            "ready_s": times.ready,
            **{f"{role}_mib": deployment.memory(role) for role in ("router", "prefill", "decode")},
        }
        reads = asyncio.run(_read_repeatedly(deployment))
        values |= {
            "tasks_ms": 1000 * statistics.median(read.seconds for read in reads),
            "tasks_kib": reads[-1].size / 1024,
        }
        values |= asyncio.run(add_under_traffic(deployment, folder, LOAD, later, seconds))
        return {name: round(value, 3) for name, value in values.items()}


async def _read_repeatedly(deployment: AdapterDeployment) -> list[Read]:
    async with deployment.client() as client:
        return [await read_tasks(client) for _ in range(_READS)]


if __name__ == "__main__":
    typer.run(main)
