"""Render a deployment's state for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.launch.state import DeploymentState, Phase, ProcessState

_COLOURS = {
    "ready": "green",
    "running": "cyan",
    "loading": "cyan",
    "registering": "cyan",
    "starting": "yellow",
    "restarting": "yellow",
    "stopping": "yellow",
    "refused": "red",
    "failed": "red",
}

# a process, one word for its state, and the reason
_Placed = tuple[ProcessState, str, str]


def render(state: DeploymentState, report: TasksReport | None) -> RenderableType:
    """Return a headline, tables of processes, tasks and modules, and one line for each reason against one of them."""
    placed = [(process, *serving(process, report)) for process in state.processes]
    tasks: list[RenderableType] = [_tasks(report), *_weights_reasons(report), *_modules(report)] if report else []
    return Group(_headline(state), _processes(placed, report), *_reasons(placed), *_sizes(state), *tasks)


def serving(process: ProcessState, report: TasksReport | None) -> tuple[str, str]:
    """Return one word for a process's state, and the reason: the supervisor's until it runs, then the router's."""
    if process.phase != Phase.RUNNING:
        return process.phase.value, process.detail
    if process.role == "router":
        return ("ready" if report is not None else "starting"), ""
    worker = report.workers.get(process.name) if report is not None else None
    if worker is None or worker.state == "absent":
        return "loading", ""
    return worker.state, worker.reason


def early_end(process: ProcessState) -> str:
    """Return how a process ended before it served, with its log's last lines; empty unless it did."""
    if not process.log_end:
        return ""
    how = f"{process.detail}, start {process.restarts}"
    return f"{process.name} ended before it was ready ({how}). The end of {process.log}:\n{process.log_end}"


class EarlyEnds:
    """The early ends of processes, each reported once."""

    def __init__(self) -> None:
        self._reported: dict[str, int] = {}

    def news(self, state: DeploymentState) -> list[str]:
        """Return the early ends that were not returned before."""
        new = [p for p in state.processes if p.log_end and self._reported.get(p.name) != p.restarts]
        self._reported.update({p.name: p.restarts for p in new})
        return [early_end(process) for process in new]


def running_count(state: DeploymentState) -> str:
    """Return how many of a deployment's processes run, in words."""
    running = sum(p.phase == Phase.RUNNING for p in state.processes)
    return f"{running} of {len(state.processes)} processes"


def _headline(state: DeploymentState) -> Text:
    seconds = f" after {state.seconds_to_ready:.1f} s" if state.seconds_to_ready is not None else ""
    colour = _COLOURS.get(state.phase.value, "white")
    detail = f"  {escape(state.detail)}" if state.detail else ""
    return Text.from_markup(
        f"[bold]{escape(str(state.topology))}[/]  [{colour}]{state.phase.value}[/]{seconds}  {state.url}{detail}"
    )


def _processes(placed: Sequence[_Placed], report: TasksReport | None) -> Table:
    table = Table("process", "role", "state", "pid", "restarts", "in flight", "url")
    reports = report.workers if report is not None else {}
    for process, word, _ in placed:
        shown = f"[{_COLOURS.get(word, 'white')}]{word}[/]"
        worker = reports.get(process.name)
        table.add_row(
            process.name,
            process.role,
            shown,
            str(process.pid or ""),
            str(process.restarts or ""),
            str(worker.in_flight) if worker else "",
            process.url,
        )
    return table


def _reasons(placed: Sequence[_Placed]) -> list[Text]:
    """Return the reasons of processes, which are too long for a column."""
    return [
        Text.assemble((f"{process.name} {word}", _COLOURS.get(word, "white")), f": {why}")
        for process, word, why in placed
        if why and word != "ready"
    ]


def _sizes(state: DeploymentState) -> list[RenderableType]:
    """Return a table of the pools that size themselves, with the reason of each; nothing where none does."""
    if not state.sizes:
        return []
    table = Table("pool", "workers", "bounds", "serving", "starting", "draining", "a boot", title_justify="left")
    table.title = "Pools that size themselves"
    for size in state.sizes:
        bounds = f"{size.least} to {size.most}"
        counts = (str(size.serving), str(size.starting or ""), str(size.draining or ""))
        table.add_row(size.pool, str(size.workers), bounds, *counts, f"{size.boot_seconds:.1f} s")
    lines = [Text.assemble((f"{size.pool} now", "cyan"), f": {size.reason}") for size in state.sizes if size.reason]
    last = [Text.assemble((f"{size.pool} last", "cyan"), f": {size.changed}") for size in state.sizes if size.changed]
    return [table, *lines, *last]


class SizeChanges:
    """The changes of pools that size themselves, each reported once."""

    def __init__(self) -> None:
        self._reported: dict[str, int] = {}

    def news(self, state: DeploymentState) -> list[str]:
        """Return the changes that were not returned before, as lines."""
        new = [size for size in state.sizes if size.changes != self._reported.get(size.pool, 0)]
        self._reported.update({size.pool: size.changes for size in new})
        return [f"pool {size.pool}: {size.changed}" for size in new]


def _tasks(report: TasksReport) -> Table:
    tasks = report.tasks.values()
    adapters, modules = any(task.adapter for task in tasks), any(task.module for task in tasks)
    own = [*(["adapter"] if adapters else []), *(["module"] if modules else [])]
    table = Table("task", "prefill", "decode", *own, "paths proven", "in flight")
    for name, task in report.tasks.items():
        total = len(task.prefill.workers) * len(task.decode.workers)
        colour = "green" if task.ready else "yellow"
        proven = f"[{colour}]{len(task.paths)} of {total}[/]"
        adapter = [task.adapter.name if task.adapter else ""] if adapters else []
        module = [task.module.revision if task.module else ""] if modules else []
        table.add_row(name, task.prefill.pool, task.decode.pool, *adapter, *module, proven, str(task.in_flight))
    return table


def _weights_reasons(report: TasksReport) -> list[Text]:
    """Return the reasons why workers cannot serve adapters or modules, one line for each worker and reason."""
    found = {(one.worker, one.why): (one.worker, one.adapter, one.why) for one in report.unproven_adapters if one.why}
    found |= {(one.worker, one.why): (one.worker, one.module, one.why) for one in report.unproven_modules if one.why}
    return [Text.assemble((f"{worker} without {name}", "yellow"), f": {why}") for worker, name, why in found.values()]


def _modules(report: TasksReport) -> list[Table]:
    """Return a table of the workers that change between modules; none where no worker does."""
    users: dict[str, list[str]] = {}
    for name, task in report.tasks.items():
        if task.module is not None:
            users.setdefault(task.module.revision, []).append(name)
    table = Table("worker", "loaded", "in host memory", "waiting", "changes", "a change", title_justify="left")
    table.title = "Modules that take turns"
    for name, worker in report.workers.items():
        if (modules := worker.modules) is None:
            continue
        loaded = "the pool's" if modules.loaded == modules.own else ", ".join(users.get(modules.loaded, [])) or "none's"
        table.add_row(
            name,
            loaded,
            f"{len(modules.held)}, {modules.host_bytes / 1e6:,.0f} MB",
            str(sum(modules.queued.values())),
            str(modules.changes),
            f"{modules.change_seconds:.3f} s" if modules.changes else "",
        )
    return [table] if table.row_count else []
