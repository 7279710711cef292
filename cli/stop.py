"""`sun stop`: drain a deployment and end it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from sun_sglang.cli.status import select

EXAMPLE = "sun stop configs/demo/sun.yaml"


def command(
    file: Annotated[
        Path | None, typer.Argument(help="A topology file; not needed while only one runs.", show_default=False)
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The directory given to `sun launch`.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Do not let requests in flight finish.")] = False,
) -> None:
    """Stop a deployment: no new requests, those in flight finish, then every process ends."""
    console = Console(highlight=False, soft_wrap=True)
    states = select(file, run_dir)
    if not states:
        console.print(f"{file} does not run." if file else "Nothing runs.")
        sys.exit(1 if file or run_dir else 0)
    if len(states) > 1:
        names = "\n".join(f"  sun stop {state.topology}" for state in states)
        console.print(f"Several deployments run; name one:\n{names}")
        sys.exit(2)
    supervisor = psutil.Process(states[0].pid)
    with console.status("stopping ..." if now else "draining ..."):
        supervisor.send_signal(signal.SIGKILL if now else signal.SIGTERM)
        supervisor.wait()
    console.print(f"Stopped {states[0].topology}.")
