"""The table of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show_plan(plan: Mapping[str, Any]) -> None:
    """Print a plan, as `sun plan --json` has it."""
    console = Console(highlight=False)
    objectives = ", ".join(f"{name} {limit:g} ms" for name, limit in plan["slo"].items())
    console.print(
        f"{plan['requests']:,} requests of {plan['tasks']} tasks in {plan['seconds']:,.0f} s "
        f"({plan['requests_per_second']:.3g} a second, {plan['output_tokens_per_second']:,.0f} output tokens a second)"
    )
    console.print(f"Objectives for {100 * plan['goodput_ratio']:g} % of the requests: {objectives}")
    console.print(f"Step times: {plan['costs']['source']}", markup=False)
    console.print(plan_table(plan))
    for name, why in plan["left_out"].items():
        console.print(f"`{name}` is left out: {why}.", markup=False)


def plan_table(plan: Mapping[str, Any]) -> Table:
    """Return the table of the systems."""
    table = Table("system", title="Fewest workers", title_justify="left")
    for column in ("prefill", "decode", "GPUs", "GPU-hours", "within SLO", "TTFT p50/p99 ms", "TPOT p50/p99 ms"):
        table.add_column(column, justify="right")
    table.add_column("with fewer decode workers")
    for system in plan["systems"]:
        fewer = system["with_fewer"]
        breaks = "one for each pool is enough"
        if fewer is not None:
            breaks = f"{system['breaks_first']} ({100 * fewer['within_slo']:.1f} % within)"
        table.add_row(
            system["system"],
            str(system["prefill_workers"]),
            str(system["decode_workers"]),
            str(system["gpus"]),
            f"{system['gpu_hours']:,.2f}",
            f"{100 * system['within_slo']:.1f} %",
            _pair(system["time_to_first_token"]),
            _pair(system["inter_token_latency"]),
            breaks,
        )
    return table


def _pair(values: Mapping[str, float | None]) -> str:
    return "/".join("-" if values[key] is None else f"{values[key]:.3g}" for key in ("p50", "p99"))
