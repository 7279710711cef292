"""One run: a warm-up, then a window in which is measured; then everything that is in flight is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sun_sglang.bench.load.client.clock import Clock
from sun_sglang.bench.load.drive.stop import StopSignal
from sun_sglang.bench.load.metrics.window import Window


async def run_load(
    load: Coroutine[Any, Any, None],
    watch: Coroutine[Any, Any, None],
    window: Window,
    clock: Clock,
    *,
    stop: StopSignal,
    ends_with_load: bool,
) -> Window:
    """Run a loop until the window is over or the run is stopped, and cancel what is still in flight.

    Args:
        load: an open or a closed loop.
        watch: runs beside it until the end.
        window: the window as planned.
        clock: the clock of the run.
        stop: ends the run early.
        ends_with_load: a load that ends before the window is over ends the window: it was a number of requests or a
            trace. Else the time that follows its last answer counts: nothing was due in it.

    Returns:
        The window as measured: it ends where the run was stopped; its length is 0 where that was in the warm-up.
    """
    loading, watching = asyncio.create_task(load), asyncio.create_task(watch)
    stopping, timing = asyncio.create_task(stop.wait()), asyncio.create_task(clock.sleep_until(window.end))
    tasks = [loading, watching, stopping, timing]
    waiting = {loading, stopping, timing}
    try:
        while True:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if loading in done:
                # a defect in the load is raised
                loading.result()
                waiting.discard(loading)
            if timing in done:
                return window
            if stopping in done or ends_with_load:
                end = min(clock.now(), window.end)
                return Window(min(window.start, end), end)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
