"""The results of all stages: a table for the terminal, and the report for a bug report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sun_sglang.bench.gpu_check.machine import PACKAGES
from sun_sglang.bench.gpu_check.stage import StageResult
from sun_sglang.bench.provenance import Machine, installed_versions
from sun_sglang.bench.report import Report, Run, new_report

_LONGEST = 160
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")
_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


def check_report(command: str, machine: Machine, results: Sequence[StageResult]) -> Report:
    """Return the report of the stages that have run.

    Args:
        command: the command line, without paths of the machine.
        machine: the machine, from `facts`.
        results: the stages' results.
    """
    runs = [
        Run(
            case={"stage": result.name, "title": result.title},
            outcome=result.outcome,
            message=result.message,
            values={"seconds": result.seconds},
            details=dict(result.measured),
        )
        for result in results
    ]
    versions = installed_versions(PACKAGES)
    return new_report("gpu_check", command, runs, {"seconds": "s"}, machine=machine, versions=versions)


def show(console: Console, results: Sequence[StageResult]) -> None:
    """Print a table of the stages' outcomes."""
    table = Table("stage", "proves", "outcome", "seconds", "measured", title="gpu-check", title_justify="left")
    for result in results:
        text = _headline(result.message) if result.message else _measured(result.measured)
        table.add_row(
            result.name,
            escape(result.title),
            f"[{_COLOURS[result.outcome]}]{result.outcome}[/]",
            f"{result.seconds:.0f}",
            escape(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"),
        )
    console.print(table)


def _headline(message: str) -> str:
    """Return the last line that names an exception, in a traceback or in a log; else the first line."""
    lines = message.strip().splitlines()
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[0])


def _measured(measured: Mapping[str, Any]) -> str:
    """Return the measurements that are not mappings, as text; the names of the mappings if all are."""
    return ", ".join(f"{k}: {v}" for k, v in measured.items() if not isinstance(v, dict)) or ", ".join(measured)
