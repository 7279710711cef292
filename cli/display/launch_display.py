"""The display of `sun launch`: tables that refresh in a terminal, else one line for each change."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from sun_sglang.cli.display.deployment_view import EarlyEnds, SizeChanges, render, serving
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.launch.state import DeploymentState, Phase


class LaunchTables:
    """Tables that are drawn again after each change.

    Args:
        console: a terminal.
        tasks: names of the tasks.
    """

    def __init__(self, console: Console, tasks: Sequence[str]) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()
        self._tasks = tasks
        self._announced = False
        self._ends = EarlyEnds()
        self._sizes = SizeChanges()

    def show(self, state: DeploymentState, report: TasksReport | None) -> None:
        """Show a state and the router's report of it."""
        for news in (*self._ends.news(state), *self._sizes.news(state)):
            self._live.console.print(news, markup=False)
        self._live.update(render(state, report), refresh=True)
        if state.phase == Phase.READY and not self._announced:
            self._announced = True
            self._live.console.print(request_example(state, self._tasks))

    def close(self) -> None:
        """Leave the last tables on the screen."""
        self._live.stop()


class LaunchLines:
    """One line for each process that changes.

    Args:
        console: a pipe or a file.
        tasks: names of the tasks.
    """

    def __init__(self, console: Console, tasks: Sequence[str]) -> None:
        self._console = console
        self._tasks = tasks
        self._shown: dict[str, tuple[str, str]] = {}
        self._ends = EarlyEnds()
        self._sizes = SizeChanges()

    def show(self, state: DeploymentState, report: TasksReport | None) -> None:
        """Print what is new in a state and in the router's report of it."""
        for change in self._sizes.news(state):
            self._console.print(f"{time.strftime('%H:%M:%S')} {change}", markup=False)
        words = {p.name: serving(p, report) for p in state.processes} | {"deployment": (state.phase.value, "")}
        for name, (word, why) in words.items():
            if self._shown.get(name, ("", ""))[0] != word:
                line = f"{time.strftime('%H:%M:%S')} {name}: {word}{f' ({why})' if why else ''}"
                self._console.print(line, markup=False)
        for end in self._ends.news(state):
            self._console.print(end, markup=False)
        if words["deployment"] != self._shown.get("deployment") and state.phase == Phase.READY:
            self._console.print(request_example(state, self._tasks))
        self._shown.update(words)

    def close(self) -> None:
        """Print nothing more."""


def request_example(state: DeploymentState, tasks: Sequence[str]) -> str:
    """Return the lines that show a ready deployment's URL, its tasks and a request."""
    body = f'{{"model": "{tasks[0]}", "messages": [{{"role": "user", "content": "hello"}}]}}'
    return (
        f"Ready after {state.seconds_to_ready:.1f} s: {', '.join(tasks)} at {state.url}/v1\n"
        f"  curl {state.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    )
