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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sun_sglang.bench.adapters.emulated_deployment import (
    PAIR,
    AdapterDeployment,
    launched,
    read_tasks,
)
from sun_sglang.bench.adapters.random_adapters import plain_sizes, write_adapters
from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.serving.result import read_result
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient

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
    "add_ms": "ms",
    "add_max_ms": "ms",
    "ttft_p50_ms": "ms",
    "ttft_p99_ms": "ms",
    "adding_ttft_p50_ms": "ms",
    "adding_ttft_p99_ms": "ms",
    "failed_requests": "1",
    "completed_requests": "1",
    "added_tasks": "1",
    "adapter_kib": "KiB",
}
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
    with launched(folder, first, COSTS) as (deployment, times):
        values = {
            "adapter_kib": (first[0] / "adapter_model.safetensors").stat().st_size / 1024,
            "launch_s": times.launched,
            "ready_s": times.ready,
            **{f"{role}_mib": deployment.memory(role) for role in ("router", "prefill", "decode")},
        }
        return {k: round(v, 3) for k, v in (values | asyncio.run(_serve(deployment, folder, later, seconds))).items()}


async def _serve(
    deployment: AdapterDeployment, folder: Path, later: Sequence[Path], seconds: float
) -> dict[str, float]:
    """Measure `/tasks`, and traffic without and with tasks that are added meanwhile."""
    async with deployment.client() as client:
        reads = [await read_tasks(client) for _ in range(_READS)]
    plain = await _traffic(deployment, folder / "plain.json", seconds)
    adding = asyncio.create_task(_traffic(deployment, folder / "adding.json", seconds))
    durations = await _add(deployment, later, float(LOAD["--warmup-duration"]), seconds)
    during = await adding
    assert plain.total.time_to_first_token is not None
    assert during.total.time_to_first_token is not None
    return {
        "tasks_ms": 1000 * statistics.median(read.seconds for read in reads),
        "tasks_kib": reads[-1].size / 1024,
        "add_ms": 1000 * statistics.median(durations),
        "add_max_ms": 1000 * max(durations),
        "added_tasks": len(durations),
        "ttft_p50_ms": plain.total.time_to_first_token.p50,
        "ttft_p99_ms": plain.total.time_to_first_token.p99,
        "adding_ttft_p50_ms": during.total.time_to_first_token.p50,
        "adding_ttft_p99_ms": during.total.time_to_first_token.p99,
        "failed_requests": plain.counts.failed + during.counts.failed,
        "completed_requests": plain.total.request_count + during.total.request_count,
    }


async def _add(deployment: AdapterDeployment, later: Sequence[Path], delay: float, seconds: float) -> list[float]:
    """Add tasks, spread over the window of the traffic, and return the seconds that each took.

    Raises:
        UserError: the router refuses a task.
    """
    durations = []
    await asyncio.sleep(2 * delay)
    async with RouterClient(deployment.state.url, read_access(deployment.run_dir)) as client:
        for adapter in later:
            began = time.perf_counter()
            await client.add_task(adapter.name, {**PAIR, "adapter": str(adapter)}, seconds)
            durations.append(time.perf_counter() - began)
            await asyncio.sleep(seconds / (len(later) + 1))
    return durations


async def _traffic(deployment: AdapterDeployment, output: Path, seconds: float) -> RunReport:
    """Run `sun bench` on the deployment and return its run.

    Raises:
        SystemExit: it fails.
    """
    options = [part for option in LOAD.items() for part in option]
    command = sun_command("bench", "--run-dir", str(deployment.run_dir), *options)
    command += ["--benchmark-duration", str(seconds), "--output", str(output)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"sun bench failed:\n{printed.decode(errors='replace')}")
    return read_result(output).runs[-1]


if __name__ == "__main__":
    typer.run(main)
