"""What the router's report says about a worker that is restarted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from sun_sglang.contracts.tasks_report import (
    PoolReport,
    TaskReport,
    TasksReport,
    UnprovenAdapter,
    UnprovenModule,
    UnprovenPath,
    WorkerReport,
)

# a worker in one of these states gets no requests
_IDLE = ("draining", "absent", "refused")

Lacking = frozenset[tuple[str, ...]]
_Unproven: TypeAlias = UnprovenPath | UnprovenAdapter | UnprovenModule


class Before(NamedTuple):
    """A worker as it was before its restart.

    Attributes:
        incarnation: its start; None where the router had none.
        drained: an operator had taken it out of the rotation.
        lacking: its unproven paths and weights; see `lacking`.
    """

    incarnation: str | None
    drained: bool
    lacking: Lacking


def before_restart(report: TasksReport, worker: str) -> Before:
    """Return how a worker is now."""
    found = report.workers[worker]
    return Before(found.incarnation, found.state == "draining", lacking(report, worker))


def pool_of(report: TasksReport, pool: str) -> PoolReport | None:
    """Return a pool; None where no task uses it."""
    sides = (side for task in report.tasks.values() for side in (task.prefill, task.decode))
    return next((side for side in sides if side.pool == pool), None)


def gap(report: TasksReport, pool: PoolReport, worker: str) -> str:
    """Return which service the restart of a worker would interrupt; empty where other workers take it over."""
    others = [one for one in pool.workers if one.name != worker]
    if not others:
        return f"`{worker}` is the only worker of `{pool.pool}`"
    if not any(one.state == "ready" and one.agreed for one in others):
        return f"no other worker of `{pool.pool}` is ready now ({', '.join(map(_describe, others))})"
    alone = [
        name
        for name, task in report.tasks.items()
        if task.ready and pool.pool in (task.prefill.pool, task.decode.pool) and not _served_without(task, worker)
    ]
    return f"`{worker}` alone is proven for {', '.join(f'`{name}`' for name in alone)} now" if alone else ""


def lacking(report: TasksReport, worker: str) -> Lacking:
    """Return the paths and the weights of a worker that some router process has not proven."""
    unproven: Sequence[_Unproven] = (*report.unproven_paths, *report.unproven_adapters, *report.unproven_modules)
    return frozenset(_key(one) for one in unproven if _concerns(one, worker))


def about(report: TasksReport, worker: str, known: Lacking) -> TasksReport:
    """Return the part of a report that is about one worker, without what it lacked before."""
    tasks = {name: _about(task, worker, known) for name, task in report.tasks.items()}
    return report.model_copy(update={"tasks": tasks})


def undrained(worker: WorkerReport) -> str:
    """Return why a worker that is drained may still get or have requests; empty where it does not."""
    if not worker.agreed or worker.state not in _IDLE:
        return "not every process of the router has stopped sending it requests"
    return f"it still has {worker.in_flight} requests in flight" if worker.in_flight else ""


def unnoticed(worker: WorkerReport, before: Before) -> str:
    """Return why a process of the router may still send requests to the start before; empty where none does."""
    noticed = worker.incarnation is None or worker.incarnation != before.incarnation
    return "" if noticed and worker.agreed else "not every process of the router has noticed its end"


def unregistered(worker: WorkerReport, before: Before) -> str:
    """Return why the router does not have the card of a new start; empty where every process has it."""
    if worker.incarnation is not None and worker.incarnation != before.incarnation:
        return "" if worker.agreed else "not every process of the router has read its card"
    return f"the router has not read its card ({worker.reason or worker.state})"


def unserving(report: TasksReport, worker: str, before: Before) -> str:
    """Return what a worker does not serve of what it served before its restart; empty where it serves all again."""
    found = report.workers[worker]
    if found.state != "ready" or not found.agreed:
        return _describe(found)
    missing = sorted(lacking(report, worker) - before.lacking)
    return f"not proven: {', '.join(' '.join(one) for one in missing)}" if missing else ""


def _describe(worker: WorkerReport) -> str:
    state = worker.state if worker.agreed else f"{worker.state}, not in every process of the router"
    return f"`{worker.name}` is {state}{f': {worker.reason}' if worker.reason else ''}"


def _served_without(task: TaskReport, worker: str) -> bool:
    unproven = {(path.prefill, path.decode) for path in task.unproven_paths}
    paths = ((path.prefill, path.decode) for path in task.paths)
    return any(worker not in path and path not in unproven for path in paths)


def _about(task: TaskReport, worker: str, known: Lacking) -> TaskReport:
    def side(pool: PoolReport) -> PoolReport:
        return pool.model_copy(update={"workers": tuple(one for one in pool.workers if one.name == worker)})

    def left(unproven: Sequence[_Unproven]) -> tuple[_Unproven, ...]:
        return tuple(one for one in unproven if _concerns(one, worker) and _key(one) not in known)

    return task.model_copy(
        update={
            "prefill": side(task.prefill),
            "decode": side(task.decode),
            "unproven_paths": left(task.unproven_paths),
            "unproven_adapters": left(task.unproven_adapters),
            "unproven_modules": left(task.unproven_modules),
        }
    )


def _concerns(one: _Unproven, worker: str) -> bool:
    return worker in (one.prefill, one.decode) if isinstance(one, UnprovenPath) else one.worker == worker


def _key(one: _Unproven) -> tuple[str, ...]:
    """Return a value that names one unproven path, adapter or module."""
    match one:
        case UnprovenPath():
            return "path", one.prefill, one.decode
        case UnprovenAdapter():
            return "adapter", one.adapter
        case UnprovenModule():
            return "module", one.module
