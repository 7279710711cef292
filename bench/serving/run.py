"""Measure one target once."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sun_sglang.bench.load.client.clock import Clock, RunClock
from sun_sglang.bench.load.client.endpoint import client_session
from sun_sglang.bench.load.client.load_monitor import LoadMonitor
from sun_sglang.bench.load.client.sender import Sender
from sun_sglang.bench.load.drive.load import AnyPlan, load_of
from sun_sglang.bench.load.drive.progress import Progress, counted
from sun_sglang.bench.load.drive.run import run_load
from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.planned import Plan
from sun_sglang.bench.serving.account import report_run
from sun_sglang.bench.serving.preflight import check_tasks
from sun_sglang.bench.serving.run_report import Caches, RunReport
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.targets.target import Target

_SHOW_EVERY = 0.5


class NothingMeasuredError(BenchError):
    """The user stopped a run before its window."""

    def __init__(self) -> None:
        super().__init__("interrupted before the window began: nothing was measured, and no file is written")


class Moment(NamedTuple):
    """A run at one moment, for a display.

    Attributes:
        elapsed: seconds since its start.
        progress: its counts.
    """

    elapsed: float
    progress: Progress


async def measure(
    target: Target,
    settings: BenchSettings,
    plan: AnyPlan,
    *,
    stop: StopSignal,
    show: Callable[[Moment], None],
    repetition: int = 0,
    caches: Caches = "as_found",
    clock: Callable[[], Clock] = RunClock,
) -> RunReport:
    """Send a plan to a target and return the report of the run.

    Args:
        target: what is measured.
        settings: the settings.
        plan: what is sent.
        stop: ends the run early.
        show: called twice a second with the state of the run.
        repetition: its number, from 0.
        caches: the prefix caches before it.
        clock: makes the clock of the run, at its start.

    Raises:
        BenchError: a first request fails, or the run ended before its window.
    """
    _allow_open_files()
    workload, timeout = settings.workload, settings.request_timeout_seconds
    preflight = await _unless_stopped(check_tasks(target, workload.tasks, plan, timeout=timeout), stop)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    async with client_session(timeout=timeout) as session:
        run_clock = clock()
        sender, monitor, progress = Sender(session, target.endpoint_of, run_clock), LoadMonitor(run_clock), Progress()
        load = load_of(
            plan,
            workload,
            target.prepare,
            counted(sender.send, progress, stop),
            run_clock,
            stop=stop,
            note_lateness=monitor.note,
        )
        window = await run_load(
            load,
            _watch(monitor, run_clock, progress, show),
            settings.window,
            run_clock,
            stop=stop,
            ends_with_load=_is_finite(plan, settings),
        )
    if window.seconds <= 0:
        raise _ended_in_warm_up(stop, progress)
    return report_run(
        sender.records,
        window,
        monitor,
        stop,
        settings=settings,
        plan=plan,
        target=target,
        started=started,
        preflight=preflight,
        repetition=repetition,
        caches=caches,
    )


async def _unless_stopped(coroutine: Coroutine[Any, Any, int], stop: StopSignal) -> int:
    running, stopping = asyncio.create_task(coroutine), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise NothingMeasuredError
        return running.result()
    finally:
        running.cancel()
        stopping.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


def _is_finite(plan: AnyPlan, settings: BenchSettings) -> bool:
    """Return whether a plan is a number of requests or a trace, which may end before the window does."""
    is_trace = isinstance(plan, Plan) and settings.workload.request_rate is None
    return is_trace or settings.workload.request_count is not None


async def _watch(monitor: LoadMonitor, clock: Clock, progress: Progress, show: Callable[[Moment], None]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(monitor.watch())
        while True:
            show(Moment(clock.now(), progress))
            await clock.sleep_until(clock.now() + _SHOW_EVERY)


def _ended_in_warm_up(stop: StopSignal, progress: Progress) -> BenchError:
    if stop.ending is Ending.CUT_SHORT:
        return NothingMeasuredError()
    if stop.is_set:
        return BenchError(stop.reason)
    return BenchError(
        f"all {progress.sent} requests were answered in the warm-up; set --warmup-duration 0, or send more"
    )


def _allow_open_files() -> None:
    """Let this process open as many files as the system permits: each request in flight is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
