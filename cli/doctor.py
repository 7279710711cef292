"""`sun doctor`: inspect this machine and its SGLang."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sun_sglang.launch.doctor import Finding, PatchLine

EXAMPLE = "sun doctor --json"
_COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Inspect this machine: versions, devices, KV transfer and every hook on SGLang. Exits with 1 if one is broken."""
    from sun_sglang.launch.doctor import machine_findings, patch_lines, transfer_findings, version_findings
    from sun_sglang.launch.planning.hardware.machine import detect_machine

    machine = detect_machine()
    findings = [*version_findings(), *machine_findings(machine), *transfer_findings(machine)]
    patches, trouble = patch_lines()
    findings += [trouble] if trouble else []
    broken = any(f.state == "bad" for f in findings) or any(p.state in ("missing", "moved") for p in patches)
    if as_json:
        report = {
            "ok": not broken,
            "findings": [f._asdict() for f in findings],
            "patches": [p.model_dump() for p in patches],
        }
        typer.echo(json.dumps(report, indent=2))
    else:
        _show(findings, patches)
    sys.exit(1 if broken else 0)


def _show(findings: list[Finding], patches: list[PatchLine]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    machine = Table("", "", "", show_header=False, box=None)
    for finding in findings:
        colour = _COLOURS[finding.state]
        machine.add_row(f"[{colour}]{finding.state}[/]", finding.what, finding.detail)
    console.print(machine)
    hooks = Table("hook", "state", "without it", title="Hooks on SGLang", title_justify="left")
    for patch in patches:
        state = f"[red]{patch.state}[/]" if patch.state in ("missing", "moved") else patch.state
        hooks.add_row(patch.name, state + (f": {escape(patch.detail)}" if patch.detail else ""), patch.why)
    console.print(hooks)
