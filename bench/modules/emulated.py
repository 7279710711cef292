"""Points of `sun_sglang.bench.modules.scale` in real time: emulated workers behind the real router, and `sun bench`.

    python -m sun_sglang.bench.modules.emulated
    python -m sun_sglang.bench.modules.emulated --workers 2 --tasks 8 --rates 2 --seconds 10 --warmup 2 --out x.json

Each point is measured in real time and simulated in virtual time, with equal settings. A task's module is a name, which
an emulated worker takes for weights of the size and the costs of `scale`. `--workers 0`: each task has a prefill worker
of its own. Writes both to `bench/results/modules_emulated.json`.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from sun_sglang.bench.adapters.adding import run_traffic
from sun_sglang.bench.adapters.deployment import AdapterDeployment, read_tasks, require_sun
from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.bench.modules.reported_changes import Changed, logged_changes
from sun_sglang.bench.modules.scale import ANSWER, DECODERS, MODULE_BYTES, PROMPT, SLO, TASKS, change_seconds, measure
from sun_sglang.bench.modules.turns import COSTS, changing
from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.sim.cost_model import CostModel, load_costs

NAME = "modules_emulated"
UNITS = {
    "within_slo": "%",
    "ttft_p50_s": "s",
    "ttft_p99_s": "s",
    "changes_per_s": "1/s",
    "lost_to_changes": "%",
    "requests": "1",
    "failed_requests": "1",
}
_READY_WITHIN = 900.0


def main(
    workers: Annotated[list[int] | None, typer.Option(help="Shared prefill workers; repeat it (4, 8, 0).")] = None,
    rates: Annotated[list[float] | None, typer.Option(help="Requests a second; repeat it (2, 5).")] = None,
    zipf: Annotated[float, typer.Option(min=0, help="Exponent of the popularity of tasks.")] = 1.5,
    bandwidth: Annotated[int, typer.Option(min=1, help="GB/s of a change.")] = 25,
    tasks: Annotated[int, typer.Option(min=1)] = TASKS,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the window.")] = 120.0,
    warmup: Annotated[float, typer.Option(min=0)] = 20.0,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json",
) -> None:
    """Measure and simulate each point, print both and write the report."""
    systems, offered, runs, console = workers or [4, 8, 0], rates or [2.0, 5.0], list[Run](), Console(stderr=True)
    costs = load_costs(COSTS)
    with tempfile.TemporaryDirectory() as temporary:
        for count in systems:
            folder = Path(temporary) / str(count)
            folder.mkdir()
            speed = bandwidth if count else 0
            real = _measure(folder, count, tasks, speed, costs, zipf, offered, seconds, warmup)
            for rate, values in zip(offered, real, strict=True):
                load = PrefillLoad(tasks, zipf, rate, PROMPT, warmup + seconds)
                virtual = measure(load, count, speed, costs, warmup, 0)
                case = virtual.case | {"tasks": tasks}
                runs.append(Run(case=case | {"clock": "real"}, repetition=0, values=values))
                runs.append(Run(case=case | {"clock": "virtual"}, repetition=0, seed=0, values=virtual.values))
                console.print(runs[-2], runs[-1])
    options = [*(f"--workers {count}" for count in systems), *(f"--rates {rate:g}" for rate in offered)]
    options += [f"--zipf {zipf:g}", f"--bandwidth {bandwidth}", f"--tasks {tasks}"]
    options += [f"--seconds {seconds:g}", f"--warmup {warmup:g}"]
    settings = {
        "decode_workers": DECODERS,
        "prompt": PROMPT,
        "answer": ANSWER,
        "slo": SLO,
        "module_bytes": MODULE_BYTES,
        "costs": COSTS.name,
    }
    command = " ".join(["python -m sun_sglang.bench.modules.emulated", *options])
    report = new_report(NAME, command, runs, UNITS, settings=settings)
    write_report(report, out)
    Console().print(median_table(report))


def topology(workers: int, tasks: int) -> dict[str, Any]:
    """Return the topology of a deployment of emulated workers, whose costs are in `costs.yaml` beside it.

    Args:
        workers: prefill workers that all tasks share; 0: each task has its own.
        tasks: number of tasks.
    """
    pools: dict[str, Any] = {"base": {"role": "decode", "model": "simulated/base", "replicas": DECODERS}}
    names = [f"task-{number}" for number in range(tasks)]
    models = {name: f"simulated/{name}" for name in names}
    if workers:
        memory = {"host_memory_gb": tasks * MODULE_BYTES / 1e9 + 100}
        pools["shared"] = {"role": "prefill", "model": "simulated/base", "replicas": workers, "modules": memory}
        pairs = {name: {"prefill": "shared", "decode": "base", "model": models[name]} for name in names}
    else:
        pools |= {name: {"role": "prefill", "model": models[name]} for name in names}
        pairs = {name: {"prefill": name, "decode": "base"} for name in names}
    emulated = {"costs": "costs.yaml", "module_size": MODULE_BYTES}
    return {"pools": pools, "tasks": pairs, "backend": "emulated", "emulated": emulated, "router": {"port": 0}}


def _measure(
    folder: Path,
    workers: int,
    tasks: int,
    bandwidth: int,
    costs: CostModel,
    zipf: float,
    rates: list[float],
    seconds: float,
    warmup: float,
) -> list[dict[str, int | float]]:
    """Launch a deployment, and return what was measured at each rate."""
    with_changes = changing(costs, change_seconds(bandwidth))
    (folder / "costs.yaml").write_text(yaml.safe_dump(with_changes.model_dump()))
    (folder / "modules.yaml").write_text(yaml.safe_dump(topology(workers, tasks), sort_keys=False))
    deployment = AdapterDeployment(folder / "run")
    require_sun("launch", str(folder / "modules.yaml"), "--detach", "--run-dir", str(deployment.run_dir))
    try:
        asyncio.run(_until_ready(deployment, (workers or 1) * DECODERS))
        load = {
            "--zipf": f"{zipf:g}",
            "--isl": f"uniform:{PROMPT // 2}:{PROMPT * 3 // 2}",
            "--osl": str(ANSWER),
            "--goodput": f"time_to_first_token:{1000 * SLO:g}",
            "--warmup-duration": f"{warmup:g}",
            "--max-client-lag": "1000",
        }
        found = []
        for rate in rates:
            point = load | {"--request-rate": f"{rate:g}"}
            found.append(asyncio.run(_run(deployment, point, folder / f"{rate:g}.json", seconds, workers)))
        return found
    finally:
        require_sun("stop", "--run-dir", str(deployment.run_dir), "--now")


async def _run(
    deployment: AdapterDeployment, load: dict[str, str], output: Path, seconds: float, workers: int
) -> dict[str, int | float]:
    """Measure one rate on a deployment with so many shared prefill workers."""
    if not workers:
        run, changed = await run_traffic(deployment, load, output, seconds), Changed(0, 0)
    else:
        async with logged_changes(deployment) as log:
            run = await run_traffic(deployment, load, output, seconds)
        changed = log.during(run)
    found = latencies(run) | {
        "changes_per_s": changed.changes / run.window.seconds,
        "lost_to_changes": 100 * changed.seconds / run.window.seconds / max(1, workers),
    }
    return {name: round(value, 3) for name, value in found.items()}


def latencies(run: RunReport) -> dict[str, float]:
    """Return the quantities of a run of `sun bench` with an objective for TTFT."""
    total = run.total
    assert total.time_to_first_token is not None, "requests were completed"
    assert total.good_request_count is not None, "the run has an objective"
    return {
        "within_slo": 100 * total.good_request_count / total.request_count,
        "ttft_p50_s": total.time_to_first_token.p50 / 1000,
        "ttft_p99_s": total.time_to_first_token.p99 / 1000,
        "requests": total.request_count,
        "failed_requests": run.counts.failed,
    }


async def _until_ready(deployment: AdapterDeployment, paths: int) -> None:
    """Wait until every task is served over `paths` paths between workers."""
    async with deployment.client() as client:
        await wait_until(
            lambda: read_tasks(client),
            "every task is ready",
            within=_READY_WITHIN,
            accept=lambda read: all(len(task["paths"]) == paths for task in read.report["tasks"].values()),
            interval=0.5,
        )


if __name__ == "__main__":
    typer.run(main)
