"""Measure systems in turn: for each repetition, each system once, at all points of the grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress

from sun_sglang.bench.serving.campaign.grid import in_turn
from sun_sglang.bench.serving.campaign.interruption import InterruptedByUserError
from sun_sglang.bench.serving.campaign.turn import Context, Turn
from sun_sglang.bench.serving.systems.system import System
from sun_sglang.errors import SunError


async def run_campaign(systems: Sequence[System], context: Context) -> None:
    """Measure what the record lacks, until everything is measured or the user ends the benchmark.

    A system is started once for each repetition and serves all points of the grid; then the next one is started. A
    system that cannot be measured is left out from then on, with its error in the record, and the others go on.

    Args:
        systems: what is measured.
        context: what all turns share.
    """
    failed: set[str] = set()
    with suppress(InterruptedByUserError):
        for repetition in range(context.settings.num_profile_runs):
            for system in in_turn(systems, repetition):
                name = system.report.name
                if name in failed:
                    continue
                try:
                    await _take_turn(system, repetition, context)
                except InterruptedByUserError:
                    raise
                except SunError as e:
                    failed.add(name)
                    context.record.fail(name, str(e))


async def _take_turn(system: System, repetition: int, context: Context) -> None:
    name = system.report.name
    lacking = [point for point in context.points if not context.record.has(point.number, name, repetition)]
    if not lacking:
        return
    try:
        with context.view.starting(name) if system.starts else nullcontext():
            target = await context.interruption.unless_requested(system.start())
        context.record.note_workers(name, target.workers_of(context.settings.workload.tasks))
        turn = Turn(context, target, repetition, fresh=system.starts)
        for point in lacking:
            await turn.measure(point)
    finally:
        await system.stop()
