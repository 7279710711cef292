"""The closed loop: a fixed number of users, each of which starts its next unit when its last one has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sun_sglang.bench.load.client.clock import Clock
from sun_sglang.bench.load.drive.ramp import slot_time
from sun_sglang.bench.load.drive.units import Unit

PAUSE_AFTER_FAILURE = 0.1
"""Seconds that a user waits after a failure: a server that refuses at once must not be flooded."""


async def closed_loop(units: Iterator[Unit], clock: Clock, *, concurrency: int, ramp: float = 0.0) -> None:
    """Keep a number of units going, until there are no more and all have ended.

    Args:
        units: taken one by one, by whichever user is free.
        clock: the clock of the run.
        concurrency: number of users.
        ramp: seconds in which the number grows from 1 to its value.
    """
    async with asyncio.TaskGroup() as group:
        for user in range(concurrency):
            group.create_task(_user(units, clock, slot_time(user, concurrency, ramp)))


async def _user(units: Iterator[Unit], clock: Clock, start: float) -> None:
    await clock.sleep_until(start)
    for unit in units:
        if not await unit.run():
            await clock.sleep_until(clock.now() + PAUSE_AFTER_FAILURE)
