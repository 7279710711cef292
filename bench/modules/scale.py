"""A hundred full modules of an 8B model on 4, 8 and 16 prefill workers, against a prefill worker each: virtual time.

    python -m sun_sglang.bench.modules.scale
    python -m sun_sglang.bench.modules.scale --seconds 20 --warmup 5 --repetitions 1 --out scale.json

Workers have the costs of Llama 3.1 8B on an A100 (`configs/costs/`). A change of modules copies 16.06 GB from host
memory, at 25 GB/s (PCIe 4.0, sixteen lanes, of which pinned copies reach about four fifths of 31.5 GB/s) or at 50 GB/s
(PCIe 5.0, as much of 63 GB/s). All modules are in host memory: 1.6 TB, once for all workers of a machine. Four decode
workers serve all tasks. Requests arrive at random for tasks by a Zipf law. The router's selection of workers and the
workers' order of modules are those of a deployment.

Writes the share of requests whose first token came within a second, the p50 and p99 of TTFT, the changes a second and
the share of the prefill workers' time that changes took to `bench/results/modules_scale.json`.
`sun_sglang.bench.modules.emulated` measures some of these points in real time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.bench.modules.simulated_pools import PoolSizes, simulate
from sun_sglang.bench.modules.turns import COSTS, changing
from sun_sglang.bench.report import RESULTS, Case, Report, Run, new_report, write_report
from sun_sglang.sim.cost_model import CostModel, load_costs

NAME = "modules_scale"
UNITS = {"within_slo": "%", "ttft_p50_s": "s", "ttft_p99_s": "s", "changes_per_s": "1/s", "lost_to_changes": "%"}
ZIPF = (0.0, 1.5, 3.0)
RATES = (2.0, 5.0, 10.0, 20.0, 40.0)
WORKERS = (4, 8, 16, 0)
"""Prefill workers that all tasks share; 0: each task has its own."""
MODULE_BYTES = 16_060_522_496
"""8,030,261,248 parameters of 16 bits."""
BANDWIDTHS = (25, 50)
"""GB/s from host memory to a GPU."""
TASKS, DECODERS, PROMPT, ANSWER, SLO = 100, 4, 1024, 128, 1.0


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Virtual seconds that are measured.")] = 120.0,
    warmup: Annotated[float, typer.Option(min=0, help="Virtual seconds before them.")] = 20.0,
    repetitions: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json",
) -> None:
    """Run every case, print the shares within the SLO and write the report."""
    costs, runs, console = load_costs(COSTS), list[Run](), Console(stderr=True)
    for zipf, rate, (workers, bandwidth) in itertools.product(ZIPF, RATES, systems()):
        load = PrefillLoad(TASKS, zipf, rate, PROMPT, warmup + seconds)
        for repetition in range(repetitions):
            runs.append(measure(load, workers, bandwidth, costs, warmup, repetition))
        console.print(runs[-1].case, runs[-1].values)
    settings = {
        "tasks": TASKS,
        "decode_workers": DECODERS,
        "prompt": PROMPT,
        "answer": ANSWER,
        "slo": SLO,
        "module_bytes": MODULE_BYTES,
        "seconds": seconds,
        "warmup": warmup,
        "costs": COSTS.name,
    }
    options = {"seconds": seconds, "warmup": warmup, "repetitions": repetitions}
    command = "python -m sun_sglang.bench.modules.scale " + " ".join(f"--{k} {v:g}" for k, v in options.items())
    report = new_report(NAME, command, runs, UNITS, settings=settings)
    write_report(report, out)
    Console().print(share_table(report))


def systems() -> Iterator[tuple[int, int]]:
    """Yield the shared prefill workers and the bandwidth of each system; workers of their own never change."""
    for workers in WORKERS:
        yield from ((workers, bandwidth) for bandwidth in (BANDWIDTHS if workers else (0,)))


def change_seconds(bandwidth: int) -> float:
    """Return the seconds of a change of modules at a bandwidth in GB/s; 0 without one."""
    return MODULE_BYTES / (bandwidth * 1e9) if bandwidth else 0.0


def measure(load: PrefillLoad, workers: int, bandwidth: int, costs: CostModel, warmup: float, repetition: int) -> Run:
    """Run one case.

    Args:
        load: its load, the warm-up included.
        workers: prefill workers that all tasks share; 0: each task has its own.
        bandwidth: GB/s of a change; 0 where there is none.
        costs: of every worker, without changes.
        warmup: seconds at the beginning that are not measured.
        repetition: number of the repetition, which is the seed of the load: all systems meet equal requests.
    """
    sizes = PoolSizes(workers, DECODERS)
    with_changes = changing(costs, change_seconds(bandwidth))
    found = simulate(load, sizes, with_changes, answer=ANSWER, slo=SLO, warmup=warmup, seed=repetition)
    values = {
        "within_slo": 100 * found.waits.within(SLO),
        "ttft_p50_s": found.waits.quantile(0.5),
        "ttft_p99_s": found.waits.quantile(0.99),
        "changes_per_s": found.changes_per_s,
        "lost_to_changes": 100 * found.lost,
    }
    case: Case = {"prefill_workers": workers, "bandwidth_gb_s": bandwidth, "zipf": load.zipf, "rate": load.rate}
    return Run(case=case, repetition=repetition, seed=repetition, values={k: round(v, 3) for k, v in values.items()})


def share_table(report: Report) -> Table:
    """Return the share of requests within the SLO of each system, by exponent and rate."""
    labels = [f"{workers} at {bandwidth} GB/s" if workers else "one each" for workers, bandwidth in systems()]
    table = Table("zipf", "requests/s", *labels, title="First token within a second, %")
    for zipf, rate in itertools.product(ZIPF, RATES):
        row = []
        for workers, bandwidth in systems():
            case: Case = {"prefill_workers": workers, "bandwidth_gb_s": bandwidth, "zipf": zipf, "rate": rate}
            row += [f"{m.median:.1f}" for m in report.medians if (m.case, m.quantity) == (case, "within_slo")]
        table.add_row(f"{zipf:g}", f"{rate:g}", *row)
    return table


if __name__ == "__main__":
    typer.run(main)
