"""`sun status`: show the deployments of this machine."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sun_sglang.contracts.tasks_report import TasksReport
    from sun_sglang.launch.discovery import Deployment

EXAMPLE = "sun status configs/demo/sun.yaml"
_REFRESH = 1.0


def command(
    file: Annotated[
        Path | None, typer.Argument(help="A topology file; default: every running deployment.", show_default=False)
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The --run-dir given to `sun launch`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh the tables each second until Ctrl-C or the deployment ends.")
    ] = False,
) -> None:
    """Show the deployments of this machine. Exits with 1 if the named deployment is not running."""
    from sun_sglang.launch.discovery import left_deployments, running_deployments

    if watch:
        with suppress(KeyboardInterrupt):
            _watch(file, run_dir)
        return
    found = running_deployments(file, run_dir)
    left = left_deployments(file, run_dir)
    reports = asyncio.run(read_reports(found))
    if as_json:
        shown = [_as_json(d, r) for d, r in zip(found, reports, strict=True)]
        shown += [{**_as_json(d, None), "left_workers": _left_workers(d)[0]} for d in left]
        typer.echo(json.dumps(shown, indent=2))
    else:
        _show(found, reports)
        if not found and not left:
            _show_none(file or run_dir)
        for deployment in left:
            typer.echo(_describe_left(deployment))
    if not found and (file or run_dir):
        sys.exit(1)


async def read_reports(deployments: Sequence[Deployment]) -> list[TasksReport | None]:
    """Return the router's report of each deployment; None where a router does not answer."""
    from sun_sglang.launch.router_access import read_access
    from sun_sglang.launch.router_client import RouterClient

    reports = []
    for directory, state in deployments:
        async with RouterClient(state.url, read_access(directory)) as client:
            reports.append(await client.tasks())
    return reports


def _as_json(deployment: Deployment, report: TasksReport | None) -> dict[str, object]:
    tasks = report.model_dump(mode="json")["tasks"] if report is not None else None
    return {**deployment.state.model_dump(mode="json"), "tasks": tasks}


def _show(deployments: Sequence[Deployment], reports: Sequence[TasksReport | None]) -> None:
    from rich.console import Console

    from sun_sglang.cli.display.deployment_view import early_end, render

    console = Console(highlight=False)
    for (_, state), report in zip(deployments, reports, strict=True):
        console.print(render(state, report))
        for end in filter(None, map(early_end, state.processes)):
            console.print(end, markup=False)


def _left_workers(deployment: Deployment) -> tuple[list[str] | None, str]:
    """Return the workers that outlived a deployment's launcher; None, and why, where they cannot be determined."""
    from sun_sglang.errors import SunError
    from sun_sglang.launch.left_workers import left_workers

    try:
        return list(asyncio.run(left_workers(deployment.run_dir))), ""
    except SunError as e:
        return None, str(e)


def _describe_left(deployment: Deployment) -> str:
    from sun_sglang.launch.discovery import command_for

    directory, state = deployment
    workers, problem = _left_workers(deployment)
    if workers is None:
        running = f"whether its workers run cannot be determined: {problem}"
    else:
        running = f"these workers run without it: {', '.join(workers) or 'none'}"
    stop = command_for("stop", state.topology, directory)
    where = f" --run-dir {directory}" if "--run-dir" in stop else ""
    return (
        f"{state.topology}: its launcher (pid {state.pid}) is gone, and the router with it; {running}. "
        f"`sun launch {state.topology} --place ray{where}` goes on with them, `{stop}` ends them."
    )


def _watch(file: Path | None, run_dir: Path | None) -> None:
    from rich.console import Console, Group
    from rich.live import Live

    from sun_sglang.cli.display.deployment_view import render
    from sun_sglang.launch.discovery import running_deployments

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while found := running_deployments(file, run_dir):
            reports = asyncio.run(read_reports(found))
            views = (render(state, report) for (_, state), report in zip(found, reports, strict=True))
            live.update(Group(*views), refresh=True)
            time.sleep(_REFRESH)
    _show_none(file or run_dir)


def _show_none(named: Path | None) -> None:
    from sun_sglang.launch.discovery import not_running

    typer.echo(f"{not_running(named)}.")
