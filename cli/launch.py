"""`sun launch`: a topology file becomes running processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from sun_sglang.cli.display.deployment_view import EarlyEnds, render, serving
from sun_sglang.cli.display.display_thread import DisplayThread
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import LaunchError
from sun_sglang.launch.deployment import prepare, require_not_running, supervise
from sun_sglang.launch.places.local.start_methods import StartMethodName
from sun_sglang.launch.state import DeploymentState, Phase, read_state, run_dir_of
from sun_sglang.launch.supervision.log_end import last_lines
from sun_sglang.launch.supervision.readiness import Limits
from sun_sglang.launch.supervision.supervisor import Supervisor

EXAMPLE = "sun launch configs/demo/sun.yaml --detach"

Changed = Callable[[DeploymentState, TasksReport | None], None]


def command(
    file: Annotated[Path, typer.Argument(help="A topology file.", show_default=False)],
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when every task is ready.")] = False,
    start: Annotated[
        StartMethodName | None,
        typer.Option(
            help="`fork`: import SGLang once for all local workers. `plain`: each imports it for itself.",
            show_default="plain where a worker has a GPU, else fork",
        ),
    ] = None,
    ready_timeout: Annotated[
        float, typer.Option(help="Seconds after which a deployment that is not ready is given up.")
    ] = 1800.0,
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory for logs and state.", show_default="one per topology file")
    ] = None,
) -> None:
    """Start a topology's workers and its router, and keep them running. Ctrl-C drains and stops them."""
    directory = (run_dir or run_dir_of(file)).resolve()
    console = Console(highlight=False, soft_wrap=True)
    require_not_running(directory)
    display = DisplayThread(_discard_output)

    def warn(note: str) -> None:
        display.note(lambda: console.print(f"[yellow]note:[/] {note}"))

    prepared = asyncio.run(prepare(file, directory, start, warn))
    plan, findings = prepared.plan, prepared.findings
    notes = "".join(f"[yellow]note:[/] {note}\n" for note in (*findings.notes, *plan.notes))
    if detach:
        console.print(notes, end="")
        _detach(
            console,
            file,
            [*(["--start", start] if start else []), "--ready-timeout", str(ready_timeout)],
            directory,
            list(plan.fleet.tasks),
        )
        return
    tasks = list(plan.fleet.tasks)
    display.note(
        lambda: console.print(f"KV transfer: {plan.transfer.backend}. {plan.transfer.reason}\n{notes}", end="")
    )
    display.note(lambda: console.print(f"Logs: {directory / 'logs'}"))
    show, close = _live(console, tasks) if console.is_terminal else _lines(console, tasks)

    def changed(state: DeploymentState, report: TasksReport | None) -> None:
        display.show(lambda: show(state, report))

    status = 1
    try:
        asyncio.run(_run(supervise(prepared, changed, Limits(ready_timeout=ready_timeout))))
        status = 0
    finally:
        display.note(close)
        if not display.close():
            # every process of the deployment has ended; Python would wait for the write that nobody reads
            os._exit(status)


def _discard_output() -> None:
    """Send later output nowhere: Python would end with an error when it flushes a closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


async def _run(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, supervisor.stop)
    # a closed terminal is no reason to leave workers without their supervisor: it ends all of them
    loop.add_signal_handler(signal.SIGHUP, supervisor.stop)
    await supervisor.run()


def _live(console: Console, tasks: Sequence[str]) -> tuple[Changed, Callable[[], None]]:
    live = Live(console=console, auto_refresh=False, transient=False)
    live.start()
    announced = False
    ends = EarlyEnds()

    def changed(state: DeploymentState, report: TasksReport | None) -> None:
        nonlocal announced
        for end in ends.news(state):
            live.console.print(end, markup=False)
        live.update(render(state, report), refresh=True)
        if state.phase == Phase.READY and not announced:
            announced = True
            live.console.print(_how_to_ask(state, tasks))

    return changed, live.stop


def _lines(console: Console, tasks: Sequence[str]) -> tuple[Changed, Callable[[], None]]:
    shown: dict[str, tuple[str, str]] = {}
    ends = EarlyEnds()

    def changed(state: DeploymentState, report: TasksReport | None) -> None:
        words = {p.name: serving(p, report) for p in state.processes} | {"deployment": (state.phase.value, "")}
        for name, (word, why) in words.items():
            if shown.get(name, ("", ""))[0] != word:
                console.print(f"{time.strftime('%H:%M:%S')} {name}: {word}{f' ({why})' if why else ''}", markup=False)
        for end in ends.news(state):
            console.print(end, markup=False)
        if words["deployment"] != shown.get("deployment") and state.phase == Phase.READY:
            console.print(_how_to_ask(state, tasks))
        shown.update(words)

    return changed, lambda: None


def _how_to_ask(state: DeploymentState, tasks: Sequence[str]) -> str:
    body = f'{{"model": "{tasks[0]}", "messages": [{{"role": "user", "content": "hello"}}]}}'
    return (
        f"Ready after {state.seconds_to_ready:.1f} s: {', '.join(tasks)} at {state.url}/v1\n"
        f"  curl {state.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    )


def _detach(console: Console, file: Path, options: list[str], run_dir: Path, tasks: Sequence[str]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    output = run_dir / "supervisor.log"
    arguments = ["launch", str(file.resolve()), *options, "--run-dir", str(run_dir)]
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sun_sglang.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    ends = EarlyEnds()

    def show(state: DeploymentState) -> None:
        for end in ends.news(state):
            console.print(end, markup=False)
        status.update(f"{state.phase.value}: {_progress(state)}")

    with console.status("starting ...") as status:
        state = _wait(process, run_dir, show)
    if state is None:
        raise LaunchError(f"the deployment did not start; the end of {output}:\n{last_lines(output.read_bytes(), 30)}")
    console.print(_how_to_ask(state, tasks))
    console.print(f"Logs: {run_dir / 'logs'}   `sun status`, `sun stop {os.path.relpath(file)}`")


def _wait(
    process: subprocess.Popen[bytes], run_dir: Path, show: Callable[[DeploymentState], None]
) -> DeploymentState | None:
    while process.poll() is None:
        state = read_state(run_dir)
        if state is not None and state.pid == process.pid:
            show(state)
            if state.phase == Phase.READY:
                return state
        time.sleep(0.1)
    return None


def _progress(state: DeploymentState) -> str:
    running = sum(p.phase == Phase.RUNNING for p in state.processes)
    return f"{running} of {len(state.processes)} processes"
