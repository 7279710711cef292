from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sun_sglang.bench.load.client.endpoint import prepare
from sun_sglang.bench.load.drive.load import load_of
from sun_sglang.bench.load.drive.stop import StopSignal
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.settings import workload_settings
from tests.support.fake_target import FakeTarget
from tests.support.manual_clock import ManualClock


async def sent(seconds: float, **values: Any) -> tuple[FakeTarget, bool, list[float]]:
    """Run a load on a target that takes a second for each request; return what was sent and whether the load ended."""
    settings = workload_settings(**{"tasks": ("a", "b"), "isl": "4", "osl": "2", "warmup_duration": 0} | values)
    clock, late = ManualClock(), list[float]()
    target = FakeTarget(clock, lambda _: 1.0)
    load = load_of(
        build(settings),
        settings,
        prepare,
        target.send,
        clock,
        stop=StopSignal(),
        note_lateness=lambda due, done: late.append(done - due),
    )
    running = asyncio.create_task(load)
    await clock.advance(seconds)
    ended = running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return target, ended, late


async def test_load_with_a_rate_sends_at_the_times_of_the_plan() -> None:
    values: dict[str, Any] = {"request_rate": 2.0, "arrival_pattern": "constant", "benchmark_duration": 5.0}
    target, ended, late = await sent(8, **values)
    assert ended
    assert [r.sent for r in target.records] == [r.due for r in target.records]
    assert len(target.records) == len(late) == pytest.approx(10, abs=1)


async def test_load_with_a_concurrency_keeps_so_many_in_flight() -> None:
    target, ended, _ = await sent(2.5, concurrency=3, benchmark_duration=60.0)
    assert not ended
    assert [r.sent for r in target.records] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [r.index for r in target.records] == list(range(9))


async def test_load_of_a_number_of_requests_ends_after_them() -> None:
    target, ended, _ = await sent(30, concurrency=3, request_count=4, benchmark_duration=60.0)
    assert ended
    assert len(target.records) == 4


async def test_load_hot_task_shifts_with_the_time_of_sending() -> None:
    target, _, _ = await sent(100, concurrency=1, zipf=20.0, hot_shift=50.0, benchmark_duration=60.0)
    assert [r.task for r in target.records[:50]] == ["a"] * 50
    assert [r.task for r in target.records[51:100]] == ["b"] * 49


@pytest.mark.parametrize("values", [{"concurrency": 2}, {"request_rate": 1.0, "arrival_pattern": "constant"}])
async def test_load_of_agents_sends_the_calls_of_a_session_in_turn(values: dict[str, Any]) -> None:
    settings = {"workload": "react", "agent_count": 2, "agent_turns": 2, "request_count": 2, **values}
    own_lengths = {"isl": "512", "osl": "128"}
    target, ended, _ = await sent(30, **{**settings, **own_lengths, "benchmark_duration": 60.0})
    assert ended
    for session in range(2):
        calls = [r for r in target.records if r.index // 4 == session]
        assert [r.index % 4 for r in calls] == [0, 1, 2, 3]
        assert [r.sent - calls[0].sent for r in calls] == [0, 1, 2, 3]
        assert [r.task for r in calls] == ["a", "b", "a", "b"]
