"""The records of a run -> its report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sun_sglang.bench.load.client.load_monitor import LoadMonitor
from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.drive.load import AnyPlan
from sun_sglang.bench.load.drive.stop import StopSignal
from sun_sglang.bench.load.metrics.distribution import distribution
from sun_sglang.bench.load.metrics.sessions import SessionMetrics, summarise_sessions
from sun_sglang.bench.load.metrics.summary import fairness, summarise
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.agents.plan import SessionPlan
from sun_sglang.bench.serving.run_report import Caches, ClientReport, Counts, ErrorReport, RunReport, TaskReport
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.targets.target import Target
from sun_sglang.bench.serving.verdict import notes_of, problems_of


def report_run(
    records: Sequence[RequestRecord],
    window: Window,
    monitor: LoadMonitor,
    stop: StopSignal,
    *,
    settings: BenchSettings,
    plan: AnyPlan,
    target: Target,
    started: str,
    preflight: int,
    repetition: int = 0,
    caches: Caches = "as_found",
) -> RunReport:
    """Return the report of a run.

    Args:
        records: all requests that were sent.
        window: the window as measured; longer than 0.
        monitor: the samples of the client's load.
        stop: how the run ended.
        settings: the settings.
        plan: what was sent.
        target: what was measured.
        started: date and time of the start, UTC.
        preflight: requests that were sent before the run.
        repetition: its number, from 0.
        caches: the prefix caches before the run.
    """
    by_task: Mapping[str, list[RequestRecord]] = {task: [] for task in settings.workload.tasks}
    for record in records:
        by_task[record.task].append(record)
    total = summarise(records, window, objectives=settings.goodput, workers=target.workers_of(by_task))
    tasks = {}
    for task, own in by_task.items():
        metrics = summarise(own, window, objectives=settings.goodput, workers=target.workers_of([task]))
        offered = total.offered_request_count
        share = metrics.offered_request_count / offered if offered else None
        tasks[task] = TaskReport(sent=len(own), offered_share=share, metrics=metrics)
    client = ClientReport(
        cpu_share=monitor.cpu_share(window.start, window.end),
        lag=distribution((1000 * late for late in monitor.lateness(window.start, window.end)), "ms"),
    )
    problems = problems_of(stop, client, total, max_lag=settings.max_client_lag)
    workload = settings.workload
    sessions = _sessions(records, window, plan)
    return RunReport(
        repetition=repetition,
        prompt_seed=workload.random_seed if workload.prompt_seed is None else workload.prompt_seed,
        caches=caches,
        started=started,
        ending=stop.ending,
        valid=not problems,
        problems=problems,
        notes=notes_of(
            total,
            open_loop=any(record.due is not None for record in records),
            prompts_differ=workload.workload == "requests" and not workload.input_file,
            sessions=sessions,
        ),
        window=window,
        counts=_counts(records, preflight),
        total=total,
        tasks=tasks,
        fairness=fairness(task.metrics for task in tasks.values()),
        errors=_errors(records, window),
        client=client,
        sessions=sessions,
    )


def _sessions(records: Sequence[RequestRecord], window: Window, plan: AnyPlan) -> SessionMetrics | None:
    if not isinstance(plan, SessionPlan):
        return None
    return summarise_sessions(records, window, plan.workflow, due=plan.due)


def _counts(records: Sequence[RequestRecord], preflight: int) -> Counts:
    succeeded = sum(record.succeeded for record in records)
    failed = sum(record.failure is not None for record in records)
    return Counts(
        preflight=preflight,
        sent=len(records),
        succeeded=succeeded,
        failed=failed,
        cut_off=len(records) - succeeded - failed,
    )


def _errors(records: Sequence[RequestRecord], window: Window) -> tuple[ErrorReport, ...]:
    by_kind: dict[str, list[RequestRecord]] = {}
    for record in records:
        if record.failure is not None:
            by_kind.setdefault(record.failure.kind, []).append(record)
    reports = []
    for kind, failed in by_kind.items():
        first = min(failed, key=lambda record: record.ended or 0.0)
        assert first.failure is not None
        tasks = {task: sum(r.task == task for r in failed) for task in sorted({r.task for r in failed})}
        reports.append(
            ErrorReport(
                kind=kind,
                count=len(failed),
                in_window=sum(window.holds(record.ended) for record in failed),
                tasks=tasks,
                first_message=first.failure.message,
            )
        )
    return tuple(sorted(reports, key=lambda report: -report.count))
