"""Pages of several router processes, merged into one."""

from __future__ import annotations

from sun_sglang.contracts.tasks_report import (
    ModuleReport,
    OfferedReport,
    PoolReport,
    TaskReport,
    TasksReport,
    UnprovenModule,
    UnprovenPath,
    WorkerReport,
)
from sun_sglang.router.api.siblings.merging import merge_metrics, merge_tasks


def tasks_report(ready: bool, in_flight: int, unproven: tuple[UnprovenPath, ...] = ()) -> TasksReport:
    side = PoolReport(pool="p", model="m", workers=())
    task = TaskReport(
        ready=ready,
        prefill=side,
        decode=side,
        paths=(),
        unproven_paths=unproven,
        queued=1,
        in_flight=in_flight,
        namespace=None,
    )
    return TasksReport(ready=ready, draining=False, tasks={"math": task})


def test_tasks_are_ready_when_every_process_is() -> None:
    a, b = (UnprovenPath(prefill=name, decode="d", why="", times=0, refused=False) for name in "ab")
    assert merge_tasks(tasks_report(True, 1), []) == tasks_report(True, 1)
    merged = merge_tasks(tasks_report(True, 1, (a,)), [tasks_report(True, 2, (a, b)), tasks_report(False, 4)])
    assert not merged.ready
    math = merged.tasks["math"]
    assert (math.ready, math.in_flight, math.queued, math.unproven_paths) == (False, 7, 3, (a, b))
    assert not merge_tasks(tasks_report(True, 1), [None]).ready


def test_modules_are_unproven_where_any_process_has_not_proven_them_and_one_that_differs_is_moving() -> None:
    own = tasks_report(True, 1)
    lacks = UnprovenModule(worker="p0", module="a" * 16, why="", times=0, refused=False)
    module = ModuleReport(revision="a" * 16, directory="/m", size=1)
    other = own.tasks["math"].model_copy(update={"module": module, "unproven_modules": (lacks,)})
    merged = merge_tasks(own, [own.model_copy(update={"tasks": {"math": other}})])
    assert merged.unproven_modules == [lacks]
    assert merged.tasks["math"].moving
    assert merged.missing == [f"module `{'a' * 16}` not proven on `p0`"]
    assert not merged.all_ready


def test_worker_is_agreed_where_every_process_replies_and_reports_the_same_start_and_state() -> None:
    def report(**changes: object) -> TasksReport:
        whole = tasks_report(True, 1)
        worker = WorkerReport(name="d0", url="http://d", state="draining", reason="", incarnation="a", in_flight=0)
        side = PoolReport(pool="p", model="m", workers=(worker.model_copy(update=changes),))
        math = whole.tasks["math"].model_copy(update={"prefill": side, "decode": side})
        return whole.model_copy(update={"tasks": {"math": math, "sql": math}})

    def agreed(*others: TasksReport | None) -> set[bool]:
        merged = merge_tasks(report(), others)
        return {worker.agreed for task in merged.tasks.values() for worker in task.decode.workers}

    assert agreed() == agreed(report(in_flight=3)) == {True}
    differ = (report(state="ready"), report(incarnation="b"), report(name="d1"), tasks_report(True, 1), None)
    assert [agreed(report(), other) for other in differ] == [{False}] * 5


def test_metrics_keep_their_families_and_get_a_process() -> None:
    page = b'# HELP a help\n# TYPE a gauge\na{x="1"} 2.0\n# HELP b help\n# TYPE b counter\nb_total 3.0\n'
    assert merge_metrics({0: page, 1: page}).decode().splitlines() == [
        "# HELP a help",
        "# TYPE a gauge",
        'a{process="0",x="1"} 2.0',
        'a{process="1",x="1"} 2.0',
        "# HELP b help",
        "# TYPE b counter",
        'b_total{process="0"} 3.0',
        'b_total{process="1"} 3.0',
    ]


def test_offered_work_is_added_up_and_unknown_while_a_process_is_silent() -> None:
    def report(**offered: float) -> TasksReport:
        work = {name: OfferedReport(answers=n, tokens=2 * n, context_tokens=3 * n) for name, n in offered.items()}
        return tasks_report(True, 1).model_copy(update={"offered": work})

    merged = merge_tasks(report(base=1), [report(base=2, other=4)])
    assert merged.offered == report(base=3, other=4).offered
    assert merge_tasks(report(base=1), [report(base=2), None]).offered is None
    assert merge_tasks(report(base=1), [tasks_report(True, 1)]).offered is None
