"""What a benchmark sends, as one coroutine: the loop that fits the plan."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from typing import Any

from sun_sglang.bench.load.client.clock import Clock
from sun_sglang.bench.load.drive.closed_loop import closed_loop
from sun_sglang.bench.load.drive.open_loop import open_loop
from sun_sglang.bench.load.drive.progress import Send
from sun_sglang.bench.load.drive.stop import StopSignal
from sun_sglang.bench.load.drive.units import Prepare, request_units, session_units
from sun_sglang.bench.load.workload.agents.plan import SessionPlan
from sun_sglang.bench.load.workload.agents.session import Session
from sun_sglang.bench.load.workload.endless import EndlessPlan
from sun_sglang.bench.load.workload.planned import Plan, PlannedRequest
from sun_sglang.bench.load.workload.settings import WorkloadSettings

AnyPlan = Plan | EndlessPlan | SessionPlan


def load_of(
    plan: AnyPlan,
    settings: WorkloadSettings,
    prepare: Prepare,
    send: Send,
    clock: Clock,
    *,
    stop: StopSignal,
    note_lateness: Callable[[float, float], None],
) -> Coroutine[Any, Any, None]:
    """Return the loop that sends a plan.

    Args:
        plan: what is sent.
        settings: the settings that the plan was built from.
        prepare: makes the request that is sent of one that is planned.
        send: sends one request.
        clock: the clock of the run.
        stop: set where this process cannot keep up.
        note_lateness: called in an open loop with the time at which something was due and that at which it was done.
    """
    concurrency, ramp = settings.concurrency, settings.concurrency_ramp_duration
    if isinstance(plan, Plan):
        units = request_units(plan, prepare, send)
    elif isinstance(plan, SessionPlan):
        units = session_units(_sessions(plan, clock, arriving=settings.request_rate is not None), prepare, send)
    else:
        units = request_units(_requests(plan, clock), prepare, send)
    if isinstance(plan, Plan) or settings.request_rate is not None:
        return open_loop(units, clock, stop=stop, note_lateness=note_lateness, concurrency=concurrency, ramp=ramp)
    assert concurrency is not None, "a closed loop has a concurrency"
    return closed_loop(units, clock, concurrency=concurrency, ramp=ramp)


def _requests(plan: EndlessPlan, clock: Clock) -> Iterator[PlannedRequest]:
    for index in count() if plan.count is None else range(plan.count):
        yield plan.request(index, clock.now())


def _sessions(plan: SessionPlan, clock: Clock, *, arriving: bool) -> Iterator[Session]:
    if arriving:
        yield from plan
        return
    for number in count() if plan.count is None else range(plan.count):
        yield plan.session(number, clock.now())
