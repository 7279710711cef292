from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.client.endpoint import prepare
from sun_sglang.bench.load.drive.open_loop import open_loop
from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.drive.units import request_units, session_units
from sun_sglang.bench.load.workload.planned import PlannedRequest
from tests.support.fake_target import FakeTarget, planned, planned_session
from tests.support.manual_clock import ManualClock


class Lateness(list[tuple[float, float]]):
    def note(self, due: float, done: float) -> None:
        self.append((due, done))


async def test_open_loop_slow_answers_do_not_delay_requests() -> None:
    clock, lateness = ManualClock(), Lateness()
    target = FakeTarget(clock, lambda _: 100.0)
    units = request_units([planned(0, 0.5), planned(1, 0.5), planned(2, 2.0)], prepare, target.send)
    running = asyncio.create_task(open_loop(units, clock, stop=StopSignal(), note_lateness=lateness.note))
    await clock.advance(50)
    assert [(r.due, r.sent) for r in target.records] == [(0.5, 0.5), (0.5, 0.5), (2.0, 2.0)]
    assert not running.done()
    await clock.advance(102)
    await running
    assert lateness == [(0.5, 0.5), (0.5, 0.5), (2.0, 2.0)]


async def test_open_loop_limit_makes_due_requests_wait_and_is_not_lateness() -> None:
    clock, lateness = ManualClock(), Lateness()
    target = FakeTarget(clock, lambda _: 10.0)
    units = request_units([planned(i, float(i)) for i in range(4)], prepare, target.send)
    running = asyncio.create_task(
        open_loop(units, clock, stop=StopSignal(), note_lateness=lateness.note, concurrency=2)
    )
    await clock.advance(30)
    await running
    assert [(r.due, r.sent) for r in target.records] == [(0, 0), (1, 1), (2, 10), (3, 11)]
    assert target.most_in_flight == 2
    assert all(done == due for due, done in lateness)


async def test_open_loop_limit_that_ramps_grows_evenly() -> None:
    clock = ManualClock()
    target = FakeTarget(clock, lambda _: 100.0)
    units = request_units([planned(i, 0.0) for i in range(5)], prepare, target.send)
    running = asyncio.create_task(
        open_loop(units, clock, stop=StopSignal(), note_lateness=lambda *_: None, concurrency=5, ramp=8)
    )
    await clock.advance(150)
    await running
    assert [r.sent for r in target.records] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("limit", [None, 100])
async def test_open_loop_client_that_falls_behind_stops_the_run(limit: int | None) -> None:
    clock, stop, lateness = ManualClock(), StopSignal(), Lateness()
    target = FakeTarget(clock, lambda _: 0.0)

    def slow_to_make() -> Iterator[PlannedRequest]:
        for index in range(100):
            clock.time += 2.0
            yield planned(index, float(index))

    units = request_units(slow_to_make(), prepare, target.send)
    await open_loop(units, clock, stop=stop, note_lateness=lateness.note, concurrency=limit)
    assert stop.ending is Ending.CLIENT_LATE
    assert stop.reason == "this process is 6.0 s behind the plan: it cannot send at this rate"
    assert [r.index for r in target.records] == [0, 1, 2, 3]
    assert lateness[-1] == (4.0, 10.0)


async def test_open_loop_session_sends_its_requests_in_turn_and_ends_at_a_failure() -> None:
    clock = ManualClock()
    target = FakeTarget(clock, lambda _: 1.0, failing=frozenset({4}))
    sessions = [planned_session(0, 0.0, calls=3), planned_session(1, 0.5, calls=3)]
    units = session_units(sessions, prepare, target.send)
    running = asyncio.create_task(open_loop(units, clock, stop=StopSignal(), note_lateness=lambda *_: None))
    await clock.advance(20)
    await running
    assert [(r.index, r.sent) for r in target.records] == [(0, 0), (3, 0.5), (1, 1), (4, 1.5), (2, 2)]


async def test_open_loop_that_is_cancelled_cancels_its_requests() -> None:
    clock = ManualClock()
    target = FakeTarget(clock, lambda _: 10.0)
    units = request_units([planned(0, 0.0), planned(1, 50.0)], prepare, target.send)
    running = asyncio.create_task(open_loop(units, clock, stop=StopSignal(), note_lateness=lambda *_: None))
    await clock.advance(1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [r.ended for r in target.records] == [None]


@given(st.lists(st.floats(0, 20), min_size=1, max_size=30), st.integers(1, 4), st.floats(0, 5))
def test_open_loop_any_plan_and_limit_sends_each_once_never_early_never_over(
    times: list[float], limit: int, ramp: float
) -> None:
    async def check() -> None:
        clock = ManualClock()
        target = FakeTarget(clock, lambda index: 1.0 + index % 3)
        units = request_units([planned(i, due) for i, due in enumerate(sorted(times))], prepare, target.send)
        running = asyncio.create_task(
            open_loop(units, clock, stop=StopSignal(), note_lateness=lambda *_: None, concurrency=limit, ramp=ramp)
        )
        await clock.advance(200)
        await running
        assert [r.index for r in target.records] == list(range(len(times)))
        assert all(r.due is not None and r.sent >= r.due for r in target.records)
        assert target.most_in_flight <= limit

    asyncio.run(check())
