"""A benchmark from its plan to its result, in an event loop of its own that Ctrl-C ends with a result."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvloop

from sun_sglang.bench.load.drive.load import AnyPlan
from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.provenance import git_revision, installed_versions, this_machine
from sun_sglang.bench.serving.comparison import summarise_repetitions
from sun_sglang.bench.serving.result import BenchResult, PlanReport, PointReport, SystemPoint, SystemReport
from sun_sglang.bench.serving.run import Moment, measure
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.targets.target import Target

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PACKAGES = ("sun-sglang", "aiohttp", "uvloop")


def run_benchmark(
    target: Target, settings: BenchSettings, plan: AnyPlan, *, command: str, show: Callable[[Moment], None]
) -> BenchResult:
    """Measure a target and return the result. SIGINT and SIGTERM end the window early, a second one the process.

    Args:
        target: what is measured.
        settings: the settings.
        plan: what is sent, built from the settings.
        command: the command line, for the file.
        show: called twice a second with the state of the run.

    Raises:
        BenchError: a first request fails, or the run ended before its window.
    """
    revision = git_revision()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(_measure(target, settings, plan, show))
    workers = target.workers_of(settings.workload.tasks)
    system = SystemReport(
        name=target.name,
        kind=target.kind,
        workers=workers.total if workers else None,
        decode_workers=workers.decode if workers else None,
    )
    point = PointReport(
        plan=PlanReport(sha256=plan.sha256(), origin=plan.origin),
        systems={system.name: SystemPoint(runs=(run,), summary=summarise_repetitions((run,), ()))},
    )
    return BenchResult(
        command=command,
        settings=settings,
        machine=this_machine(),
        versions=installed_versions(_PACKAGES),
        revision=revision,
        systems=(system,),
        points=(point,),
    )


async def _measure(target: Target, settings: BenchSettings, plan: AnyPlan, show: Callable[[Moment], None]) -> RunReport:
    loop, stop = asyncio.get_running_loop(), StopSignal()

    def interrupt(number: signal.Signals) -> None:
        # a second signal ends the process
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
        stop.stop(Ending.CUT_SHORT, f"the user stopped the run ({number.name})")

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt, number)
    return await measure(target, settings, plan, stop=stop, show=show)
