"""Combine what several processes of one router report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sun_sglang.contracts.tasks_report import OfferedReport, PoolReport, TaskReport, TasksReport, WorkerReport


def merge_tasks(own: TasksReport, others: Sequence[TasksReport | None]) -> TasksReport:
    """Return one `/tasks` report for all processes.

    A task is ready where it is ready in every process, and moving where one process serves it otherwise than this one.
    Its requests in flight and in the queue are added up, and a path, an adapter or a module is unproven where any
    process has not proven it. A worker is agreed where every process replied and reports it alike.

    Args:
        own: the report of this process, which names the tasks.
        others: the reports of the other processes; None for one that did not reply.
    """
    if not others:
        return own
    known = [report for report in others if report is not None]
    elsewhere = [report.workers if report is not None else {} for report in others]
    # hundreds of tasks may share a few pools
    sides = {side.pool: side for task in own.tasks.values() for side in (task.prefill, task.decode)}
    pools = {name: _merge_pool(side, elsewhere) for name, side in sides.items()}
    tasks = {
        name: _merge_task(task, [report.tasks.get(name) for report in known], pools) for name, task in own.tasks.items()
    }
    ready = own.ready and all(report is not None and report.ready for report in others)
    offered = _merge_offered([own.offered, *(None if report is None else report.offered for report in others)])
    return own.model_copy(update={"ready": ready, "tasks": tasks, "offered": offered})


def _merge_offered(parts: Sequence[Mapping[str, OfferedReport] | None]) -> Mapping[str, OfferedReport] | None:
    """Return the sum of what the processes count; None where one is missing, since the sum would seem to fall."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return {
        pool: OfferedReport(
            answers=sum(part[pool].answers for part in known if pool in part),
            tokens=sum(part[pool].tokens for part in known if pool in part),
            context_tokens=sum(part[pool].context_tokens for part in known if pool in part),
            context_squares=sum(part[pool].context_squares for part in known if pool in part),
        )
        for pool in dict.fromkeys(pool for part in known for pool in part)
    }


def _merge_pool(own: PoolReport, elsewhere: Sequence[Mapping[str, WorkerReport]]) -> PoolReport:
    """Return one report of a pool. `elsewhere`: the workers by name that each other process reports."""
    workers = (
        worker.model_copy(update={"agreed": all(_alike(worker, known.get(worker.name)) for known in elsewhere)})
        for worker in own.workers
    )
    return own.model_copy(update={"workers": tuple(workers)})


def _alike(own: WorkerReport, other: WorkerReport | None) -> bool:
    return other is not None and (own.state, own.incarnation) == (other.state, other.incarnation)


def _merge_task(own: TaskReport, others: Sequence[TaskReport | None], pools: Mapping[str, PoolReport]) -> TaskReport:
    """Return one report of a task.

    Args:
        own: the report of this process.
        others: None for a process that does not serve the task, or not yet.
        pools: the merged pools by name.
    """
    tasks = (own, *filter(None, others))
    here = _served(own)
    return own.model_copy(
        update={
            "prefill": pools[own.prefill.pool],
            "decode": pools[own.decode.pool],
            "ready": None not in others and all(task.ready for task in tasks),
            "moving": None in others or any(task.moving or _served(task) != here for task in tasks),
            "in_flight": sum(task.in_flight for task in tasks),
            "queued": sum(task.queued for task in tasks),
            "unproven_paths": tuple(dict.fromkeys(path for task in tasks for path in task.unproven_paths)),
            "unproven_adapters": tuple(dict.fromkeys(one for task in tasks for one in task.unproven_adapters)),
            "unproven_modules": tuple(dict.fromkeys(one for task in tasks for one in task.unproven_modules)),
        }
    )


def _served(task: TaskReport) -> tuple[str, str, str, str]:
    adapter, module = task.adapter.name if task.adapter else "", task.module.revision if task.module else ""
    return task.prefill.pool, task.decode.pool, adapter, module


def merge_metrics(pages: Mapping[int, bytes]) -> bytes:
    """Return one Prometheus page for several: every sample gets the label `process`.

    Args:
        pages: each process's page by the number of the process.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for process, page in pages.items():
        samples: list[str] = []
        for line in page.decode().splitlines():
            if line.startswith("# HELP "):
                head, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
                if not head:
                    head.append(line)
            elif line.startswith("# TYPE "):
                if len(head) == 1:
                    head.append(line)
            elif line:
                samples.append(_add_label(line, process))
    lines = [line for head, samples in families.values() for line in (*head, *samples)]
    return ("\n".join(lines) + "\n").encode()


def _add_label(sample: str, process: int) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{process="{process}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{process="{process}"}} {value}'
