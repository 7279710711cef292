"""The table of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
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
    console.print("GPU-h: of the whole load. Breaks first: what most requests miss with fewer decode workers.")
    for name, why in plan["left_out"].items():
        console.print(f"`{name}` is left out: {why}.", markup=False)


def plan_table(plan: Mapping[str, Any]) -> Table:
    """Return the table of the systems."""
    table = Table(title="Fewest workers", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("system", no_wrap=True)
    for column in ("prefill", "decode", "GPU-h", "within", "TTFT p99", "TPOT p99"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("breaks first", no_wrap=True)
    for system in plan["systems"]:
        table.add_row(
            system["system"],
            str(system["prefill_workers"]),
            str(system["decode_workers"]),
            f"{system['gpu_hours']:,.2f}",
            f"{100 * system['within_slo']:.1f} %",
            _milliseconds(system["time_to_first_token"]["p99"]),
            _milliseconds(system["inter_token_latency"]["p99"]),
            system["breaks_first"] or "-",
        )
    return table


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"
