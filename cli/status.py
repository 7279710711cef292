"""`sun status`: what runs on this machine."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live

from sun_sglang.cli.display.deployment_view import early_end, render
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import UserError
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import DeploymentState, known_deployments, read_state, run_dir_of

EXAMPLE = "sun status configs/demo/sun.yaml"
_REFRESH = 1.0


def command(
    file: Annotated[
        Path | None, typer.Argument(help="A topology file; without one, everything that runs.", show_default=False)
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The directory given to `sun launch`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it live, until Ctrl-C or it ends.")] = False,
) -> None:
    """Show deployments on this machine. Exits with 1 if what was asked for does not run."""
    if watch:
        with suppress(KeyboardInterrupt):
            _watch(file, run_dir)
        return
    found = locate(file, run_dir)
    states = [state for _, state in found]
    reports = asyncio.run(ask(found))
    if as_json:
        shown = [
            {**json.loads(s.model_dump_json()), "tasks": json.loads(r.model_dump_json())["tasks"] if r else None}
            for s, r in zip(states, reports, strict=True)
        ]
        typer.echo(json.dumps(shown, indent=2))
    else:
        console = Console(highlight=False)
        for state, report in zip(states, reports, strict=True):
            console.print(render(state, report))
            for end in filter(None, map(early_end, state.processes)):
                console.print(end, markup=False)
        if not states:
            console.print(f"{file} does not run." if file else "Nothing runs.")
    if not states and (file or run_dir):
        sys.exit(1)


def _watch(file: Path | None, run_dir: Path | None) -> None:
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while found := locate(file, run_dir):
            reports = asyncio.run(ask(found))
            views = (render(state, report) for (_, state), report in zip(found, reports, strict=True))
            live.update(Group(*views), refresh=True)
            time.sleep(_REFRESH)
    Console(highlight=False).print(f"{file} does not run." if file else "Nothing runs.")


def select(file: Path | None, run_dir: Path | None) -> list[DeploymentState]:
    """The running deployments that are meant: one, or all of them where neither is given."""
    return [state for _, state in locate(file, run_dir)]


def locate(file: Path | None, run_dir: Path | None) -> list[tuple[Path, DeploymentState]]:
    """As `select`, with the directory of each."""
    if file is None and run_dir is None:
        return [(directory, state) for directory, state in known_deployments() if state.alive]
    directory = run_dir if run_dir is not None else run_dir_of(file) if file is not None else None
    assert directory is not None
    state = read_state(directory)
    return [(directory, state)] if state is not None and state.alive else []


def the_only(file: Path | None, run_dir: Path | None) -> tuple[Path, DeploymentState]:
    """The one running deployment that is meant, and its directory.

    Raises:
        UserError: there is none, or more than one.
    """
    found = locate(file, run_dir)
    if not found:
        raise UserError(f"{file or run_dir} does not run" if file or run_dir else "nothing runs")
    if len(found) > 1:
        raise UserError(f"several deployments run; name one: {', '.join(str(s.topology) for _, s in found)}")
    return found[0]


async def ask(found: list[tuple[Path, DeploymentState]]) -> list[TasksReport | None]:
    """What each deployment's router says; None where it does not answer."""
    reports = []
    for directory, state in found:
        async with RouterClient(state.url, read_access(directory)) as client:
            reports.append(await client.tasks())
    return reports
