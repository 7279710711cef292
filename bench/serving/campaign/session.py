"""A benchmark from its systems to its result, in an event loop of its own that Ctrl-C ends with a result."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import uvloop

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.serving.campaign.campaign import run_campaign
from sun_sglang.bench.serving.campaign.grid import grid
from sun_sglang.bench.serving.campaign.interruption import Interruption
from sun_sglang.bench.serving.campaign.record import Record
from sun_sglang.bench.serving.campaign.resume import resume
from sun_sglang.bench.serving.campaign.turn import Context
from sun_sglang.bench.serving.campaign.view import CampaignView
from sun_sglang.bench.serving.result import BenchResult, PlanReport, write_result
from sun_sglang.bench.serving.run import NothingMeasuredError
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.systems.system import System

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_benchmark(
    systems: Sequence[System],
    settings: BenchSettings,
    *,
    command: str,
    output: Path | None,
    view: CampaignView,
) -> tuple[BenchResult, bool]:
    """Measure systems and return the result. SIGINT and SIGTERM end the window early, a second one the process.

    Args:
        systems: what is measured.
        settings: the settings.
        command: the command line, for the file.
        output: the file that is written after each run; what it has is not measured again.
        view: shows the benchmark.

    Returns:
        the result, and whether the user stopped the benchmark.

    Raises:
        BenchError: a setting is wrong, the file is that of another benchmark, or nothing was measured.
    """
    points = grid(settings)
    plans = [build(point.settings.workload) for point in points]
    planned = [
        (point, PlanReport(sha256=plan.sha256(), origin=plan.origin)) for point, plan in zip(points, plans, strict=True)
    ]

    def save(result: BenchResult) -> None:
        if output is not None and result.runs:
            write_result(result, output)

    record = Record(command, settings, [system.report for system in systems], planned, save)
    if output is not None:
        resume(record, output)
    context = Context(settings, points, len(systems), record, Interruption(), view)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(systems, context))
    if not record.result.runs:
        raise _nothing_measured(record.result)
    return record.result, context.interruption.is_requested


async def _run(systems: Sequence[System], context: Context) -> None:
    loop = asyncio.get_running_loop()

    def interrupt(number: signal.Signals) -> None:
        # a second signal ends the process
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
        context.interruption.request(f"the user stopped the run ({number.name})")

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt, number)
    await run_campaign(systems, context)


def _nothing_measured(result: BenchResult) -> BenchError:
    errors = [system for system in result.systems if system.error is not None]
    if not errors:
        return NothingMeasuredError()
    if len(result.systems) == 1:
        return BenchError(errors[0].error)
    return BenchError("\n".join(f"{system.name}: {system.error}" for system in errors))
