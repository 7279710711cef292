"""Tasks that are added under traffic on real SGLang: the time that each takes, and the TTFT of the others meanwhile.

    make model
    chrt --rr --reset-on-fork 1 python -m sun_sglang.bench.adapters.added

Launches SmolLM2 with random adapters as tasks on one prefill and one decode worker. `sun bench` sends traffic twice,
and the second time tasks are added meanwhile through the admin API. Writes every run to
`bench/results/adapters_added.json`.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sun_sglang.bench.adapters.adding import UNITS, add_under_traffic
from sun_sglang.bench.adapters.deployment import launched, real_tasks
from sun_sglang.bench.adapters.random_adapters import sizes_or_exit, write_adapters
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.smollm2.model import BASE

LOAD = {
    "--zipf": "1.5",
    "--concurrency": "4",
    "--isl": "32",
    "--osl": "32",
    "--warmup-duration": "10",
}
_RANK = 6


def main(
    tasks: Annotated[int, typer.Option(min=1, help="Tasks before any is added.")] = 8,
    added: Annotated[int, typer.Option(min=1, help="Tasks added under traffic.")] = 8,
    repetitions: Annotated[int, typer.Option(min=1)] = 2,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each window of traffic.")] = 40.0,
    base: Annotated[Path, typer.Option(help="The base's checkpoint.")] = BASE,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "adapters_added.json",
) -> None:
    """Measure additions under traffic, print the medians and write the report."""
    runs, console = list[Run](), Console(stderr=True)
    sizes = sizes_or_exit(base, console)
    with tempfile.TemporaryDirectory() as temporary:
        adapters = write_adapters(sizes, Path(temporary) / "adapters", tasks + added, rank=_RANK)
        topology = real_tasks(base, adapters[:tasks], slots=tasks + added)
        for repetition in range(repetitions):
            folder = Path(temporary) / str(repetition)
            folder.mkdir()
            with launched(folder, topology) as (deployment, times):
                values = {"ready_s": times.ready}
                values |= asyncio.run(add_under_traffic(deployment, folder, LOAD, adapters[tasks:], seconds))
            rounded = {name: round(value, 3) for name, value in values.items()}
            runs.append(Run(case={"tasks": tasks}, repetition=repetition, values=rounded))
            console.print(runs[-1])
    command = f"python -m sun_sglang.bench.adapters.added --tasks {tasks} --added {added}"
    command += f" --repetitions {repetitions} --seconds {seconds:g}"
    report = new_report("adapters_added", command, runs, {"ready_s": "s", **UNITS}, settings={"load": LOAD})
    write_report(report, out)
    Console().print(median_table(report))


if __name__ == "__main__":
    typer.run(main)
