"""The open loop: each unit starts when it is due, whether or not earlier ones have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from sun_sglang.bench.load.client.clock import Clock
from sun_sglang.bench.load.drive.ramp import slot_time
from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.drive.units import Unit

# so far behind, a client only makes its own queue longer
_HOPELESSLY_LATE = 5.0


async def open_loop(
    units: Iterable[Unit],
    clock: Clock,
    *,
    stop: StopSignal,
    note_lateness: Callable[[float, float], None],
    concurrency: int | None = None,
    ramp: float = 0.0,
) -> None:
    """Start each unit at its time, and return when all of them have ended.

    With a limit, a unit that is due waits for a free slot; the records keep the time at which it was due.

    Args:
        units: in the order of their times; each is taken before the pause that precedes it.
        clock: the clock of the run.
        stop: set where this process falls behind so far that the run is worthless.
        note_lateness: called for each unit with the time at which it was to start and that at which it did. Time that
            it waited for a slot is not lateness.
        concurrency: most units at a time; None for no limit.
        ramp: seconds in which the limit grows from 1 to its value.
    """
    slots = asyncio.Semaphore(1 if ramp else concurrency) if concurrency else None
    async with asyncio.TaskGroup() as group:
        growing = group.create_task(_grow(slots, concurrency, ramp, clock)) if slots and concurrency and ramp else None
        held_until = 0.0
        for unit in units:
            assert unit.due is not None, "a unit of an open loop has a time"
            await clock.sleep_until(unit.due)
            now, target = clock.now(), max(unit.due, held_until)
            note_lateness(target, now)
            if now - target > _HOPELESSLY_LATE:
                behind = f"this process is {now - target:.1f} s behind the plan: it cannot send at this rate"
                stop.stop(Ending.CLIENT_LATE, behind)
                break
            if slots is not None:
                was_full = slots.locked()
                await slots.acquire()
                held_until = clock.now() if was_full else held_until
            group.create_task(_run(unit, slots))
        if growing is not None:
            growing.cancel()


async def _run(unit: Unit, slots: asyncio.Semaphore | None) -> None:
    try:
        await unit.run()
    finally:
        if slots is not None:
            slots.release()


async def _grow(slots: asyncio.Semaphore, count: int, ramp: float, clock: Clock) -> None:
    """Open all slots but the first, which is open."""
    for slot in range(1, count):
        await clock.sleep_until(slot_time(slot, count, ramp))
        slots.release()
