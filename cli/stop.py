"""`sun stop`: drain a deployment and end it."""

from __future__ import annotations

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
    import psutil
    from rich.console import Console

    from sun_sglang.checkpoint.module.host_copies import remove_unused, shared_directory
    from sun_sglang.launch.discovery import not_running, running_deployments

    console = Console(highlight=False, soft_wrap=True)
    states = [deployment.state for deployment in running_deployments(file, run_dir)]
    if not states:
        console.print(f"{not_running(file or run_dir)}.", markup=False)
        sys.exit(1 if file or run_dir else 0)
    if len(states) > 1:
        commands = "\n".join(f"  sun stop {state.topology}" for state in states)
        console.print(f"Several deployments are running; name one:\n{commands}", markup=False)
        sys.exit(2)
    launcher = psutil.Process(states[0].pid)
    with console.status("stopping ..." if now else "draining ..."):
        children = launcher.children(recursive=True)
        launcher.send_signal(signal.SIGKILL if now else signal.SIGTERM)
        launcher.wait()
        # they end with the launcher, and leave their modules in shared memory if they were killed
        psutil.wait_procs(children, timeout=_CHILDREN_SECONDS)
        remove_unused(shared_directory())
    console.print(f"Stopped {states[0].topology}.", markup=False)
