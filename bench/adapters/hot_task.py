"""A popular task while others wait for slots, on real SGLang: its TTFT with few tasks, and with more than fit.

    make model
    chrt --rr --reset-on-fork 1 python -m sun_sglang.bench.adapters.hot_task

Launches SmolLM2 with 8 and with 32 random adapters as tasks, both times with 8 slots for adapters, and sends the same
load with `sun bench`. Writes every run to `bench/results/adapters_hot_task.json`: the TTFT of the most popular task and
of all others, and the copies of adapters into slots.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from sun_sglang.bench.adapters.adding import run_traffic
from sun_sglang.bench.adapters.deployment import AdapterDeployment, launched, real_tasks
from sun_sglang.bench.adapters.random_adapters import sizes_or_exit, write_adapters
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.smollm2.model import BASE

LOAD = {
    "--zipf": "1.5",
    "--concurrency": "4",
    "--isl": "32",
    "--osl": "16",
    "--warmup-duration": "10",
}
UNITS = {
    "hot_ttft_p50_ms": "ms",
    "hot_ttft_p95_ms": "ms",
    "hot_requests": "1",
    "others_ttft_p50_ms": "ms",
    "others_ttft_p95_ms": "ms",
    "others_requests": "1",
    "cold_loads": "1",
    "cold_load_ms": "ms",
    "failed_requests": "1",
}
SLOTS = 8
"""Slots for adapters."""

_RANK = 6


def main(
    tasks: Annotated[list[int] | None, typer.Option(min=2, help="Numbers of tasks; repeat it (8, 32).")] = None,
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the window.")] = 60.0,
    base: Annotated[Path, typer.Option(help="The base's checkpoint.")] = BASE,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "adapters_hot_task.json",
) -> None:
    """Measure each number of tasks, print the medians and write the report."""
    counts, runs, console = tasks or [SLOTS, 4 * SLOTS], list[Run](), Console(stderr=True)
    sizes = sizes_or_exit(base, console)
    with tempfile.TemporaryDirectory() as temporary:
        adapters = write_adapters(sizes, Path(temporary) / "adapters", max(counts), rank=_RANK)
        # repetitions are interleaved, so that a drift of the machine meets every number of tasks
        for repetition in range(repetitions):
            for count in counts:
                folder = Path(temporary) / f"{count}-{repetition}"
                folder.mkdir()
                values = _measure(folder, base, adapters[:count], seconds)
                runs.append(Run(case={"tasks": count}, repetition=repetition, values=values))
                console.print(runs[-1])
    command = "python -m sun_sglang.bench.adapters.hot_task " + " ".join(f"--tasks {count}" for count in counts)
    command += f" --repetitions {repetitions} --seconds {seconds:g}"
    report = new_report("adapters_hot_task", command, runs, UNITS, settings={"load": LOAD, "slots": SLOTS})
    write_report(report, out)
    Console().print(median_table(report))


def _measure(folder: Path, base: Path, adapters: list[Path], seconds: float) -> dict[str, int | float]:
    with launched(folder, real_tasks(base, adapters, SLOTS)) as (deployment, _):
        before = asyncio.run(_cold_loads(deployment))
        run = asyncio.run(run_traffic(deployment, LOAD, folder / "run.json", seconds))
        after = asyncio.run(_cold_loads(deployment))
    loads, waited = after[0] - before[0], after[1] - before[1]
    found = ttft_of(run) | {
        "cold_loads": loads,
        "cold_load_ms": 1000 * waited / loads if loads else 0.0,
        "failed_requests": run.counts.failed,
    }
    return {name: round(value, 3) for name, value in found.items()}


def ttft_of(run: RunReport) -> dict[str, float]:
    """Return the TTFT of the first task of the ranking, and that of the others: the mean over their requests.

    `sun bench` keeps no TTFT of single requests, so that of several tasks together is their weighted mean.
    """
    first, *others = [task.metrics for task in run.tasks.values()]
    assert first.time_to_first_token is not None, "the most popular task completed requests"
    seen = [m.time_to_first_token for m in others if m.time_to_first_token is not None]
    number = sum(ttft.count for ttft in seen)
    return {
        "hot_ttft_p50_ms": first.time_to_first_token.p50,
        "hot_ttft_p95_ms": first.time_to_first_token.p95,
        "hot_requests": first.request_count,
        "others_ttft_p50_ms": sum(ttft.p50 * ttft.count for ttft in seen) / max(number, 1),
        "others_ttft_p95_ms": sum(ttft.p95 * ttft.count for ttft in seen) / max(number, 1),
        "others_requests": number,
    }


async def _cold_loads(deployment: AdapterDeployment) -> tuple[float, float]:
    """Return the number of copies of adapters into slots, and the seconds that prompts waited for them."""
    async with deployment.client() as client, client.get("/metrics") as reply:
        samples = [s for family in text_string_to_metric_families(await reply.text()) for s in family.samples]

    def total(name: str) -> float:
        return sum(sample.value for sample in samples if sample.name == name)

    return total("sun_adapter_cold_loads_total"), total("sun_adapter_cold_load_seconds_total")


if __name__ == "__main__":
    typer.run(main)
