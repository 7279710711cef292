"""`sun stop`: drain a deployment and end it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

_CHILDREN_SECONDS = 30.0
EXAMPLE = "sun stop configs/demo/sun.yaml"


def command(
    file: Annotated[
        Path | None,
        typer.Argument(help="A topology file; not needed while one deployment is running.", show_default=False),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The --run-dir given to `sun launch`.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Kill the deployment; requests in flight fail.")] = False,
) -> None:
    """Stop a deployment: it accepts no new requests, finishes those in flight, and ends every process."""
    from rich.console import Console

    from sun_sglang.checkpoint.module.host_copies import remove_unused, shared_directory
    from sun_sglang.launch.discovery import left_deployments, not_running, running_deployments

    console = Console(highlight=False, soft_wrap=True)
    found = running_deployments(file, run_dir) or left_deployments(file, run_dir)
    states = [deployment.state for deployment in found]
    if not states:
        console.print(f"{not_running(file or run_dir)}.", markup=False)
        sys.exit(1 if file or run_dir else 0)
    if len(states) > 1:
        commands = "\n".join(f"  sun stop {state.topology}" for state in states)
        console.print(f"Several deployments are running; name one:\n{commands}", markup=False)
        sys.exit(2)
    ((directory, state),) = found
    with console.status("stopping ..." if now else "draining ..."):
        if state.alive:
            _end_launcher(state.pid, now=now)
        _end_left(directory)
        # a worker that was killed leaves its modules in shared memory
        remove_unused(shared_directory())
    console.print(f"Stopped {states[0].topology}.", markup=False)


def _end_launcher(pid: int, *, now: bool) -> None:
    """End a launcher, and wait until its processes on this machine, which end with it, have ended."""
    import psutil

    launcher = psutil.Process(pid)
    children = launcher.children(recursive=True)
    launcher.send_signal(signal.SIGKILL if now else signal.SIGTERM)
    launcher.wait()
    psutil.wait_procs(children, timeout=_CHILDREN_SECONDS)


def _end_left(run_dir: Path) -> None:
    """End the workers that outlived a launcher that was killed, if there are any."""
    from sun_sglang.launch.state import read_state

    state = read_state(run_dir)
    if state is not None and state.is_left:
        from sun_sglang.launch.left_workers import end_left_workers

        asyncio.run(end_left_workers(run_dir))
