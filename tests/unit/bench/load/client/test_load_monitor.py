from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from sun_sglang.bench.load.client.load_monitor import LoadMonitor
from tests.support.manual_clock import ManualClock, settle


async def test_monitor_timer_that_wakes_late_is_a_sample_of_the_window() -> None:
    clock, cpu = ManualClock(), iter([0.25, 0.5, 0.75])
    monitor = LoadMonitor(clock, lambda: next(cpu))
    watching = asyncio.create_task(monitor.watch())
    await clock.advance(0.05)
    # the next timer is due at 0.10, and this process runs again at 0.40
    clock.time = 0.40
    await clock.advance(0.40)
    await clock.advance(0.45)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert monitor.lateness(0, 1) == pytest.approx([0.0, 0.30, 0.0])
    assert monitor.lateness(0.06, 0.41) == pytest.approx([0.30])
    assert monitor.cpu_share(0.05, 0.45) == pytest.approx(0.5 / 0.4)
    assert monitor.cpu_share(0.40, 0.41) is None


async def test_monitor_late_send_is_a_sample() -> None:
    monitor = LoadMonitor(ManualClock())
    monitor.note(1.0, 1.5)
    monitor.note(2.0, 2.0)
    await settle()
    assert monitor.lateness(1, 2) == [0.5, 0.0]
