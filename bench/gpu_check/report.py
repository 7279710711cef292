"""The report: one table for people, one JSON file for a bug report."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sun_sglang.bench.gpu_check.stage import StageResult

_LONGEST = 160
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")
_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


def write_report(file: Path, command: str, machine: dict[str, Any], results: Sequence[StageResult]) -> None:
    """Write the JSON report.

    Args:
        file: where to.
        command: the command, as a user would type it.
        machine: facts about the machine.
        results: the stages' results.
    """
    counts = {o: sum(r.outcome == o for r in results) for o in _COLOURS}
    report = {
        "command": command,
        "ok": passed(results),
        "counts": counts,
        "machine": machine,
        "stages": [dataclasses.asdict(result) for result in results],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")


def passed(results: Sequence[StageResult]) -> bool:
    """Return whether a stage passed and none failed."""
    outcomes = {result.outcome for result in results}
    return "failed" not in outcomes and "passed" in outcomes


def show(console: Console, results: Sequence[StageResult]) -> None:
    """Print the table."""
    table = Table("stage", "proves", "outcome", "seconds", "figures", title="gpu-check", title_justify="left")
    for result in results:
        text = _headline(result.message) if result.message else _figures(result.figures)
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


def _figures(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}: {v}" for k, v in figures.items() if not isinstance(v, dict)) or ", ".join(figures)
