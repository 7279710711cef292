"""`sun launch`: start a topology's workers and router, and keep them running."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from sun_sglang.cli.display.display_thread import DisplayThread
    from sun_sglang.contracts.tasks_report import TasksReport
    from sun_sglang.launch.deployment import Prepared
    from sun_sglang.launch.state import DeploymentState
    from sun_sglang.launch.supervision.supervisor import Supervisor

EXAMPLE = "sun launch configs/demo/sun.yaml --detach"


def command(
    file: Annotated[Path, typer.Argument(help="A topology file.", show_default=False)],
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once every task is ready.")] = False,
    start: Annotated[
        Literal["fork", "plain"] | None,
        typer.Option(
            help="`fork`: import SGLang once and fork every worker of this machine. `plain`: each worker imports it.",
            show_default="plain where a worker has a GPU, else fork",
        ),
    ] = None,
    place: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(
            help="Where workers run: `local` for this machine, `ray` for a Ray cluster.", show_default="the topology's"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster: `auto` for the one of this machine, or HOST:PORT of its head.",
            show_default="the topology's, else auto",
        ),
    ] = None,
    ready_timeout: Annotated[
        float, typer.Option(help="Seconds after which a deployment that is not ready has failed.")
    ] = 1800.0,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Directory for the deployment's logs and state.", show_default="one per topology file"),
    ] = None,
) -> None:
    """Start a topology's workers and router, and keep them running. Ctrl-C drains and stops them."""
    from rich.console import Console

    from sun_sglang.cli.display.display_thread import DisplayThread
    from sun_sglang.launch.deployment import make_run_dir, prepare, require_not_running
    from sun_sglang.launch.discovery import run_dir_of

    directory = (run_dir or run_dir_of(file)).resolve()
    console = Console(highlight=False, soft_wrap=True)
    require_not_running(directory)
    display = DisplayThread(_discard_output)

    def warn(note: str) -> None:
        display.note(lambda: console.print(f"[yellow]note:[/] {note}"))

    prepared = asyncio.run(prepare(file, directory, start, warn, place_kind=place, address=address))
    make_run_dir(directory)
    if detach:
        given = {"--start": start, "--place": place, "--address": address, "--ready-timeout": str(ready_timeout)}
        options = [word for option, value in given.items() if value is not None for word in (option, value)]
        _detach(console, file, options, prepared)
    else:
        _run_here(console, display, prepared, ready_timeout)


def _run_here(console: Console, display: DisplayThread, prepared: Prepared, ready_timeout: float) -> None:
    """Run a deployment until a signal stops it, and show it meanwhile."""
    from sun_sglang.cli.display.launch_display import LaunchLines, LaunchTables
    from sun_sglang.launch.deployment import supervise
    from sun_sglang.launch.supervision.readiness import Limits

    plan = prepared.plan
    display.note(
        lambda: console.print(
            f"KV transfer: {plan.transfer.backend}. {plan.transfer.reason}\n{_notes(prepared)}", end=""
        )
    )
    display.note(lambda: console.print(f"Logs: {plan.run_dir / 'logs'}"))
    view = (LaunchTables if console.is_terminal else LaunchLines)(console, list(plan.fleet.tasks))

    def changed(state: DeploymentState, report: TasksReport | None) -> None:
        display.show(lambda: view.show(state, report))

    status = 1
    try:
        asyncio.run(_run(supervise(prepared, changed, Limits(ready_timeout=ready_timeout))))
        status = 0
    finally:
        display.note(view.close)
        if not display.close():
            # every process of the deployment has ended; Python would wait for a write that has no reader
            os._exit(status)


async def _run(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, supervisor.stop)
    # the workers would end with this process, without a drain, when its terminal closes
    loop.add_signal_handler(signal.SIGHUP, supervisor.stop)
    await supervisor.run()


def _detach(console: Console, file: Path, options: Sequence[str], prepared: Prepared) -> None:
    """Start the launcher in a session of its own, and return once the deployment is ready."""
    from sun_sglang.cli.display.deployment_view import EarlyEnds, running_count
    from sun_sglang.cli.display.launch_display import request_example
    from sun_sglang.launch.detached import launch_detached
    from sun_sglang.launch.discovery import command_for

    console.print(_notes(prepared), end="")
    ends = EarlyEnds()

    def show(state: DeploymentState) -> None:
        for end in ends.news(state):
            console.print(end, markup=False)
        status.update(f"{state.phase.value}: {running_count(state)}")

    run_dir = prepared.plan.run_dir
    with console.status("starting ...") as status:
        state = launch_detached(file, options, run_dir, show)
    console.print(request_example(state, list(prepared.plan.fleet.tasks)))
    status_line, stop_line = (command_for(name, Path(os.path.relpath(file)), run_dir) for name in ("status", "stop"))
    console.print(f"Logs: {run_dir / 'logs'}   `{status_line}`, `{stop_line}`", markup=False)


def _notes(prepared: Prepared) -> str:
    return "".join(f"[yellow]note:[/] {note}\n" for note in (*prepared.findings.notes, *prepared.plan.notes))


def _discard_output() -> None:
    """Discard later output: Python would end with an error when it flushes a closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
