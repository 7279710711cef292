"""Eight full modules of SmolLM2 on one and on two prefill workers, against a worker each: real SGLang on the CPU.

    make model
    chrt --rr --reset-on-fork 1 python -m sun_sglang.bench.modules.smollm2

Starts the three systems in turn and sends each the same loads with `sun bench`. All prefill workers of a system share
one core, and everything else the other: a worker each has no more processor time than one worker for all, so that a
difference in TTFT is one of the changes. Writes every run to `bench/results/modules_smollm2.json`.

The modules are the base with small random changes, in bfloat16: their answers mean nothing, and their speed is that of
fine-tunes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

from sun_sglang.bench.adapters.adding import run_traffic
from sun_sglang.bench.adapters.deployment import AdapterDeployment, require_sun
from sun_sglang.bench.modules.reported_changes import changes_of
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.systems.cores import pin_processes
from sun_sglang.bench.smollm2.model import BASE
from sun_sglang.checkpoint.module.host_copies import shared_directory

TASKS = 8
SYSTEMS = {"one_worker": 1, "two_workers": 2, "worker_each": 0}
"""Shared prefill workers of each system; 0: each task has its own."""

LOAD = {"--zipf": "1.5", "--isl": "128", "--osl": "8", "--warmup-duration": "15"}
UNITS = {
    "ttft_p50_ms": "ms",
    "ttft_p99_ms": "ms",
    "requests_per_s": "1/s",
    "tokens_per_s": "1/s",
    "requests": "1",
    "failed_requests": "1",
    "changes_per_s": "1/s",
    "change_ms": "ms",
    "prefill_mib": "MiB",
    "host_modules_mib": "MiB",
}

# one core for the work that the modules share, one for the rest
_CORES = {"prefill": (0,), "decode": (1,), "router": (1,)}
_CLIENT_CORE = {1}
# of an entry, relative to its size
_CHANGE = 0.01


def main(
    rates: Annotated[list[float] | None, typer.Option(help="Requests a second; repeat it (1, 2, 3).")] = None,
    repetitions: Annotated[int, typer.Option(min=1)] = 2,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the window.")] = 60.0,
    base: Annotated[Path, typer.Option(help="The base's checkpoint.")] = BASE,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "modules_smollm2.json",
) -> None:
    """Measure each system at each load, print the medians and write the report."""
    offered, runs, console = rates or [1.0, 2.0, 3.0], list[Run](), Console(stderr=True)
    if not (base / "config.json").exists():
        console.print(f"[bold red]error:[/] {base} is no checkpoint; make it with `make model`")
        raise typer.Exit(1)
    # what this process starts inherits it
    os.sched_setaffinity(0, _CLIENT_CORE)
    with tempfile.TemporaryDirectory() as temporary:
        modules = [write_module(base, Path(temporary) / f"module-{number}", number) for number in range(TASKS)]
        # repetitions are interleaved, so that a drift of the machine meets every system
        for repetition in range(repetitions):
            for system, workers in SYSTEMS.items():
                folder = Path(temporary) / f"{system}-{repetition}"
                folder.mkdir()
                for rate, values in _measure(folder, base, modules, workers, offered, seconds):
                    case: dict[str, str | int | float | bool] = {"system": system, "requests_per_s": rate}
                    runs.append(Run(case=case, repetition=repetition, values=values))
                    console.print(runs[-1])
    command = "python -m sun_sglang.bench.modules.smollm2 " + " ".join(f"--rates {rate:g}" for rate in offered)
    command += f" --repetitions {repetitions} --seconds {seconds:g}"
    report = new_report("modules_smollm2", command, runs, UNITS, settings={"load": LOAD, "tasks": TASKS})
    write_report(report, out)
    Console().print(median_table(report))


def write_module(base: Path, directory: Path, seed: int) -> Path:
    """Write the base with small random changes, in bfloat16, and return its directory.

    Args:
        base: directory of the base.
        directory: where; made with its parents.
        seed: of the changes.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    generator = torch.Generator().manual_seed(seed)
    for file in base.glob("*.safetensors"):
        changed = {
            name: (value * (1 + _CHANGE * torch.randn(value.shape, generator=generator))).to(torch.bfloat16)
            for name, value in load_file(file).items()
        }
        save_file(changed, directory / file.name, metadata={"format": "pt"})
    return directory


def topology(base: Path, modules: list[Path], workers: int) -> dict[str, Any]:
    """Return a topology with a task for each module.

    Args:
        base: directory of the decoder.
        modules: directories of the modules.
        workers: prefill workers that all tasks share; 0: each task has its own.
    """
    pools: dict[str, Any] = {"base": {"role": "decode", "model": str(base.resolve())}}
    if workers:
        pools["shared"] = {"role": "prefill", "model": str(modules[0]), "replicas": workers}
        tasks = {m.name: {"prefill": "shared", "decode": "base", "model": str(m)} for m in modules}
    else:
        pools |= {m.name: {"role": "prefill", "model": str(m)} for m in modules}
        tasks = {m.name: {"prefill": m.name, "decode": "base"} for m in modules}
    engine = {"dtype": "bfloat16", "max_total_tokens": 16384}
    return {"pools": pools, "tasks": tasks, "engine": engine, "router": {"port": 0}}


def _measure(
    folder: Path, base: Path, modules: list[Path], workers: int, rates: Iterable[float], seconds: float
) -> list[tuple[float, dict[str, int | float]]]:
    """Return each rate of requests, and what was measured at it."""
    import yaml

    (folder / "modules.yaml").write_text(yaml.safe_dump(topology(base, modules, workers), sort_keys=False))
    deployment = AdapterDeployment(folder / "run")
    require_sun("launch", str(folder / "modules.yaml"), "--detach", "--run-dir", str(deployment.run_dir))
    try:
        pin_processes(deployment.state.processes, _CORES)
        return [(rate, asyncio.run(_run(deployment, folder, rate, seconds))) for rate in rates]
    finally:
        require_sun("stop", "--run-dir", str(deployment.run_dir), "--now")


async def _run(deployment: AdapterDeployment, folder: Path, rate: float, seconds: float) -> dict[str, int | float]:
    before = await changes_of(deployment)
    load = LOAD | {"--request-rate": f"{rate:g}"}
    run = await run_traffic(deployment, load, folder / f"{rate:g}.json", seconds)
    changes, spent = (after - earlier for after, earlier in zip(await changes_of(deployment), before, strict=True))
    found = latencies(run) | {
        # the warm-up counts, too
        "changes_per_s": changes / (seconds + float(load["--warmup-duration"])),
        "change_ms": 1000 * spent / changes if changes else 0.0,
        "prefill_mib": _prefill_memory(deployment),
        "host_modules_mib": _shared_memory(),
    }
    return {name: round(value, 3) for name, value in found.items()}


def latencies(run: RunReport) -> dict[str, float]:
    """Return the quantities of a run of `sun bench`."""
    total = run.total
    assert total.time_to_first_token is not None, "requests were completed"
    return {
        "ttft_p50_ms": total.time_to_first_token.p50,
        "ttft_p99_ms": total.time_to_first_token.p99,
        "requests_per_s": total.request_throughput or 0.0,
        "tokens_per_s": total.output_token_throughput or 0.0,
        "requests": total.request_count,
        "failed_requests": run.counts.failed,
    }


def _prefill_memory(deployment: AdapterDeployment) -> float:
    """Return the memory of all prefill workers together, MiB: pages that several processes map count once (PSS)."""
    roots = [psutil.Process(process.pid) for process in deployment.state.processes if process.role == "prefill"]
    trees = [process for root in roots for process in (root, *root.children(recursive=True))]
    return sum(process.memory_full_info().pss for process in trees) / 2**20


def _shared_memory() -> float:
    """Return the copies of modules in shared memory, MiB."""
    return sum(file.stat().st_size for file in shared_directory().rglob("*") if file.is_file()) / 2**20


if __name__ == "__main__":
    typer.run(main)
