"""The order in which modules take turns on one prefill worker, compared with other orders in virtual time.

    python -m sun_sglang.bench.modules.turns
    python -m sun_sglang.bench.modules.turns --seconds 20 --out turns.json

The worker has the costs of Llama 3.1 8B on an A100 (`configs/costs/`). Requests arrive at random for tasks by a Zipf
law. Each case is one exponent, one rate and one time of a change. Writes the share of requests within the SLO, the p50
and p99 of the time until a prompt was computed, and the changes a second to `bench/results/modules_turns.json`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sun_sglang.bench.modules.one_worker import run
from sun_sglang.bench.modules.policies import POLICIES
from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.bench.report import RESULTS, Case, Report, Run, new_report, write_report
from sun_sglang.module_turns.turns import Policy
from sun_sglang.sim.cost_model import CostModel, load_costs

NAME = "modules_turns"
UNITS = {"within_slo": "%", "p50_s": "s", "p99_s": "s", "changes_per_s": "1/s"}
COSTS = Path(__file__).parents[2] / "configs/costs/llama-3.1-8b-a100.yaml"
ZIPF = (0.0, 1.5, 3.0)
RATES = (1.0, 2.0, 4.0, 7.0, 11.0)
# 16 GB over 320, 53 and 25 GB/s
CHANGES = (0.05, 0.3, 0.64)
TASKS, PROMPT, SLO = 20, 1024, 1.0


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Virtual seconds in which requests arrive.")] = 400.0,
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json",
) -> None:
    """Run every policy on every case, print the means and write the report."""
    costs = load_costs(COSTS)
    runs = [
        measure(name, policy, PrefillLoad(TASKS, zipf, rate, PROMPT, seconds), changing(costs, change), repetition)
        for zipf, rate, change in itertools.product(ZIPF, RATES, CHANGES)
        for name, policy in POLICIES.items()
        for repetition in range(repetitions)
    ]
    settings = {"tasks": TASKS, "prompt": PROMPT, "slo": SLO, "seconds": seconds, "costs": COSTS.name}
    command = f"python -m sun_sglang.bench.modules.turns --seconds {seconds:g} --repetitions {repetitions}"
    report = new_report(NAME, command, runs, UNITS, settings=settings)
    write_report(report, out)
    Console().print(means(report))


def changing(costs: CostModel, change: float) -> CostModel:
    """Return the costs of a worker whose changes take `change` seconds."""
    return costs.model_copy(update={"module_change": change})


def measure(name: str, policy: Policy, load: PrefillLoad, costs: CostModel, repetition: int) -> Run:
    """Run one policy on one case.

    Args:
        name: name of the policy.
        policy: the policy.
        load: the load.
        costs: of the worker.
        repetition: number of the repetition, which is the seed of the load: all policies meet equal requests.
    """
    waits = run(load, costs, policy, slo=SLO, seed=repetition)
    values = {
        "within_slo": 100 * waits.within(SLO),
        "p50_s": waits.quantile(0.5),
        "p99_s": waits.quantile(0.99),
        "changes_per_s": waits.changes / waits.ended,
    }
    case: Case = {"policy": name, "zipf": load.zipf, "rate": load.rate, "change_s": costs.module_change}
    return Run(case=case, repetition=repetition, seed=repetition, values={k: round(v, 3) for k, v in values.items()})


def means(report: Report) -> Table:
    """Return each policy's mean over all cases."""
    table = Table("policy", "within the SLO, %", "p99, s", "changes/s")
    for name in POLICIES:
        runs = [run for run in report.runs if run.case["policy"] == name]
        row = [sum(run.values[key] for run in runs) / len(runs) for key in ("within_slo", "p99_s", "changes_per_s")]
        table.add_row(name, *(f"{value:.2f}" for value in row))
    return table


if __name__ == "__main__":
    typer.run(main)
