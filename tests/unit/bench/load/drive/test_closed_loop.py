from __future__ import annotations

import asyncio
from itertools import count

import pytest

from sun_sglang.bench.load.client.endpoint import prepare
from sun_sglang.bench.load.drive.closed_loop import PAUSE_AFTER_FAILURE, closed_loop
from sun_sglang.bench.load.drive.units import request_units, session_units
from tests.support.fake_target import FakeTarget, planned, planned_session
from tests.support.manual_clock import ManualClock


async def test_closed_loop_user_sends_again_as_soon_as_it_is_answered() -> None:
    clock = ManualClock()
    target = FakeTarget(clock, lambda index: 3.0 if index == 0 else 1.0)
    running = asyncio.create_task(
        closed_loop(request_units((planned(i) for i in count()), prepare, target.send), clock, concurrency=2)
    )
    await clock.advance(4.5)
    assert sorted(r.sent for r in target.records) == [0, 0, 1, 2, 3, 3, 4, 4]
    assert target.most_in_flight == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_closed_loop_ramp_starts_users_evenly() -> None:
    clock = ManualClock()
    target = FakeTarget(clock, lambda _: 100.0)
    running = asyncio.create_task(
        closed_loop(request_units((planned(i) for i in range(3)), prepare, target.send), clock, concurrency=3, ramp=4)
    )
    await clock.advance(300)
    await running
    assert [r.sent for r in target.records] == [0, 2, 4]


async def test_closed_loop_user_pauses_after_a_failure() -> None:
    clock = ManualClock()
    target = FakeTarget(clock, lambda _: 0.0, failing=frozenset(range(100)))
    running = asyncio.create_task(
        closed_loop(request_units((planned(i) for i in range(3)), prepare, target.send), clock, concurrency=1)
    )
    await clock.advance(1)
    await running
    assert [r.sent for r in target.records] == pytest.approx([0, PAUSE_AFTER_FAILURE, 2 * PAUSE_AFTER_FAILURE])


async def test_closed_loop_sessions_keep_their_number_at_a_time() -> None:
    clock = ManualClock()
    target = FakeTarget(clock, lambda _: 1.0, failing=frozenset({1}))
    sessions = (planned_session(number) for number in range(3))
    running = asyncio.create_task(closed_loop(session_units(sessions, prepare, target.send), clock, concurrency=2))
    await clock.advance(10)
    await running
    assert [(r.index, round(r.sent, 1)) for r in target.records] == [
        (0, 0),
        (2, 0),
        (1, 1),
        (3, 1),
        (4, 2),
        (5, 3),
    ]


async def test_closed_loop_defect_in_a_prompt_is_raised_and_leaves_nothing_running() -> None:
    clock = ManualClock()
    target = FakeTarget(clock, lambda _: 0.0)
    broken = (planned(0) if i == 0 else planned(1 // 0) for i in range(2))
    with pytest.raises(ExceptionGroup) as raised:
        await closed_loop(request_units(broken, prepare, target.send), clock, concurrency=1)
    assert raised.group_contains(ZeroDivisionError)
    assert [r.index for r in target.records] == [0]
