"""From measured runs with adapters to more of them: costs are fitted, and a simulation is run with 512 adapters.

    python -m sun_sglang.bench.adapters.projection bench/results/serving/adapters_{8,32,128}.json

Reads results of `bench.adapters.served`, and writes `bench/results/adapters_projection.json`: the costs of a SUN pair
of workers and of one multi-LoRA server, the error of the simulation at each measured point, the projection, and how it
changes with each cost. It projects to more adapters and not to more clients: batches are as large as in the runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sun_sglang.bench.adapters.fitting import Build, Measured, fit_costs, relative_errors
from sun_sglang.bench.adapters.simulated_load import Load, Outcome, simulate
from sun_sglang.bench.adapters.simulated_systems import AdapterServer, SunWorkers
from sun_sglang.bench.report import RESULTS, Run, median_table, new_report, write_report
from sun_sglang.bench.serving.result import BenchResult, read_result
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.sim.cost_model import CostModel

NAME = "adapters_projection"
SYSTEMS: Mapping[str, Build] = {
    "sun": lambda costs, load: SunWorkers(costs, slots=load.tasks + 1),
    "multi_lora": lambda costs, _load: AdapterServer(costs),
}
# what each system pays; seconds. A prompt's length does not vary in these runs, so its tokens have no cost of their own
START = {
    "sun": {
        "decode_step": 0.09,
        "decode_per_request": 0.003,
        "prefill": 0.05,
        "lora_prefill_per_adapter": 0.03,
        "transfer": 0.01,
    },
    "multi_lora": {
        "decode_step": 0.09,
        "decode_per_request": 0.003,
        "lora_decode_per_adapter": 0.02,
        "prefill": 0.05,
        "lora_prefill_per_adapter": 0.03,
    },
}
UNITS = {
    "tokens_per_s": "tokens/s",
    "gap_ms": "ms",
    "ttft_ms": "ms",
    "tokens_per_s_error": "%",
    "gap_error": "%",
    "ttft_error": "%",
    "throughput_ratio": "1",
    "gap_ratio": "1",
    "low": "1",
    "high": "1",
} | {key: "s" for costs in START.values() for key in costs}
_PROJECTED = (8, 32, 128, 512)
_SHARE = 0.25


def main(
    results: Annotated[list[Path], typer.Argument(help="Results of `bench.adapters.served`.")],
    adapters: Annotated[int, typer.Option(min=2, help="Most adapters of the projection.")] = 512,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json",
) -> None:
    """Fit the costs, check them against the runs, project, and write the report."""
    measured = {system: [p for file in results for p in measured_points(read_result(file), system)] for system in START}
    costs = {system: fit_costs(SYSTEMS[system], START[system], measured[system]) for system in START}
    runs = [
        Run(case={"kind": "costs", "system": system}, values={key: getattr(found, key) for key in START[system]})
        for system, found in costs.items()
    ]
    runs += [check(system, costs[system], point) for system in START for point in measured[system]]
    base = measured["sun"][0].load
    counts = sorted({*(count for count in _PROJECTED if count < adapters), adapters})
    loads = [
        Load(count, zipf, clients, base.prompt, base.answer)
        for count in counts
        for zipf in sorted({point.load.zipf for point in measured["sun"]})
        for clients in sorted({point.load.clients for point in measured["sun"]})
    ]
    runs += [project(costs, load) for load in loads]
    most = min((load for load in loads if load.tasks == adapters), key=lambda load: (load.zipf, -load.clients))
    runs += [sensitivity(costs, most, system, key) for system in START for key in START[system]]
    command = f"python -m sun_sglang.bench.adapters.projection {' '.join(map(str, results))} --adapters {adapters}"
    report = new_report(NAME, command, runs, UNITS, settings={"sensitivity": _SHARE})
    write_report(report, out)
    Console().print(median_table(report))


def measured_points(result: BenchResult, system: str) -> list[Measured]:
    """Return what a system did at each point of a result: the median of each quantity over the valid runs."""
    points = []
    for point in result.points:
        runs = [run for run in point.systems[system].runs if run.valid]
        settings = result.settings_of(point).workload
        if not runs or settings.concurrency is None:
            continue
        tasks = len(runs[0].tasks)
        load = Load(tasks, settings.zipf, settings.concurrency, int(settings.isl), int(settings.osl))
        seen = [outcome for run in runs if (outcome := _outcome(run)) is not None]
        if seen:
            columns = zip(*((o.tokens_per_s, o.gap_ms, o.ttft_ms) for o in seen), strict=True)
            points.append(Measured(load, Outcome(*(statistics.median(column) for column in columns))))
    return points


def _outcome(run: RunReport) -> Outcome | None:
    total = run.total
    if total.inter_chunk_latency is None or total.time_to_first_token is None:
        return None
    return Outcome(total.arrived_token_throughput, total.inter_chunk_latency.avg, total.time_to_first_token.p50)


def check(system: str, costs: CostModel, point: Measured) -> Run:
    """Return a measured point beside its simulation."""
    found = simulate(SYSTEMS[system](costs, point.load), point.load)
    errors = [round(100 * error, 1) for error in relative_errors(found, point)]
    seen = point.outcome
    values = {"tokens_per_s": seen.tokens_per_s, "gap_ms": seen.gap_ms, "ttft_ms": seen.ttft_ms}
    named = dict(zip(("tokens_per_s_error", "gap_error", "ttft_error"), errors, strict=True))
    return Run(case={"kind": "measured", "system": system, **_case(point.load)}, values=_rounded(values) | named)


def project(costs: Mapping[str, CostModel], load: Load) -> Run:
    """Return SUN's throughput and time per token at a load, by those of the multi-LoRA server."""
    sun, other = (simulate(SYSTEMS[system](costs[system], load), load) for system in ("sun", "multi_lora"))
    values = {
        "tokens_per_s": sun.tokens_per_s,
        "throughput_ratio": sun.tokens_per_s / other.tokens_per_s,
        "gap_ratio": sun.gap_ms / other.gap_ms,
    }
    return Run(case={"kind": "projected", **_case(load)}, values=_rounded(values))


def sensitivity(costs: Mapping[str, CostModel], load: Load, system: str, key: str) -> Run:
    """Return the ratio of throughputs at a load with one cost lower and higher by a quarter."""
    ratios = []
    for factor in (1 - _SHARE, 1 + _SHARE):
        changed = costs[system].model_copy(update={key: factor * getattr(costs[system], key)})
        ratios.append(project({**costs, system: changed}, load).values["throughput_ratio"])
    case = {"kind": "sensitivity", "system": system, "cost": key, **_case(load)}
    return Run(case=case, values={"low": min(ratios), "high": max(ratios)})


def _case(load: Load) -> dict[str, str | int | float | bool]:
    return {"tasks": load.tasks, "zipf": load.zipf, "clients": load.clients}


def _rounded(values: Mapping[str, float]) -> dict[str, int | float]:
    return {key: float(f"{value:.4g}") for key, value in values.items()}


if __name__ == "__main__":
    typer.run(main)
