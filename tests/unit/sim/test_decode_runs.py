"""`DecodeRuns` computes in closed form what `DecodeScheduler` does step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_runs import DecodeRuns
from sun_sglang.sim.decode_scheduler import Admitted, DecodeScheduler, Ended, Token

# with times that are multiples of a power of two no sum is rounded, so that results are equal to the last bit
TICK = 2.0**-20


@dataclass(frozen=True)
class Request:
    """A request of a schedule; `delay` is the time from its admission until its KV has arrived."""

    at: float
    prompt: int
    limit: int
    delay: float
    makes_first: bool


def ticks(most: int) -> st.SearchStrategy[float]:
    """Return a strategy for times."""
    return st.integers(0, most).map(lambda count: count * TICK)


requests = st.lists(
    st.builds(
        Request,
        at=st.one_of(ticks(40_000), ticks(4).map(lambda time: time * 4096)),
        prompt=st.integers(2, 60),
        limit=st.integers(0, 40),
        delay=st.one_of(st.just(0.0), ticks(4000)),
        makes_first=st.booleans(),
    ),
    min_size=1,
    max_size=14,
)
costs = st.builds(
    CostModel,
    decode_step=ticks(400).map(lambda time: time + TICK),
    decode_per_request=ticks(40),
    decode_per_context_token=ticks(4),
)


def play(
    worker: DecodeScheduler | DecodeRuns,
    schedule: list[Request],
    at_step: Callable[[float], None] = lambda now: None,
) -> list[tuple[float, object]]:
    """Play a schedule to its end. Return the events."""
    ordered = sorted(schedule, key=lambda request: request.at)
    transfers: list[tuple[float, str]] = []
    events: list[tuple[float, object]] = []
    sent = 0
    while True:
        due = math.inf if worker.due is None else worker.due
        now = min(
            due,
            transfers[0][0] if transfers else math.inf,
            ordered[sent].at if sent < len(ordered) else math.inf,
        )
        if now == math.inf:
            return events
        at_step(now)
        while sent < len(ordered) and ordered[sent].at == now:
            request = ordered[sent]
            worker.submit(str(sent), request.prompt, request.limit, makes_first=request.makes_first)
            sent += 1
        while transfers and transfers[0][0] == now:
            worker.arrive(heappop(transfers)[1])
        for event in worker.step(now):
            if isinstance(event, Admitted):
                heappush(transfers, (now + ordered[int(event.rid)].delay, event.rid))
            events.append((now, event))


def changes(events: list[tuple[float, object]]) -> list[tuple[float, object]]:
    """Return the events without the tokens after the first, those of one time in one order."""
    kept = [(now, event) for now, event in events if not isinstance(event, Token) or event.made == 1]
    return sorted(kept, key=lambda one: (one[0], isinstance(one[1], Admitted), not isinstance(one[1], Token)))


@settings(max_examples=150, deadline=None)
@given(requests, costs, st.integers(61, 400), st.integers(0, 20))
def test_runs_under_any_schedule_equal_the_scheduler_stepped_one_by_one(
    schedule: list[Request], model: CostModel, kv_tokens: int, reserved: int
) -> None:
    stepped = play(DecodeScheduler(model, kv_tokens=kv_tokens, reserved=reserved), schedule)
    runs = DecodeRuns(model, kv_tokens=kv_tokens, reserved=reserved)
    ends = {event.rid: now for now, event in stepped if isinstance(event, Ended)}
    # the request of a token with which it ends is not known any more when tokens are compared
    tokens = [(now, event) for now, event in stepped if isinstance(event, Token) and ends[event.rid] > now]
    seen = 0

    def compare_tokens(now: float) -> None:
        """Compare the tokens before the time at which the runs are stepped next."""
        nonlocal seen
        while seen < len(tokens) and tokens[seen][0] < now:
            time, token = tokens[seen]
            assert runs.made(token.rid, time) == token.made
            seen += 1

    jumped = play(runs, schedule, compare_tokens)
    assert changes(jumped) == changes(stepped)
    assert runs.requests == 0
    assert runs.used == 0


def test_runs_with_real_costs_end_at_the_times_of_the_scheduler() -> None:
    model = CostModel(decode_step=0.0141966, decode_per_request=1e-5, decode_per_context_token=1.39131e-7)
    schedule = [Request(0.37 * i, 200 + 37 * i % 900, 50 + 61 * i % 700, 0.1, False) for i in range(60)]
    stepped = play(DecodeScheduler(model, kv_tokens=9000), schedule)
    jumped = play(DecodeRuns(model, kv_tokens=9000), schedule)
    assert [event for _, event in changes(jumped)] == [event for _, event in changes(stepped)]
    assert [now for now, _ in changes(jumped)] == pytest.approx([now for now, _ in changes(stepped)], rel=1e-12)


def test_runs_make_few_calls_for_many_tokens() -> None:
    calls: list[float] = []
    model = CostModel(decode_step=0.01, decode_per_context_token=1e-7)
    schedule = [Request(0.5 * i, 500, 1000, 0.1, False) for i in range(20)]
    events = play(DecodeRuns(model, kv_tokens=100_000), schedule, calls.append)
    assert sum(isinstance(event, Ended) for _, event in events) == 20
    assert len(calls) <= 3 * len(schedule)


def test_runs_out_of_memory_retract_and_resume_as_the_scheduler() -> None:
    model = CostModel(decode_step=TICK, decode_per_context_token=TICK)
    schedule = [Request(0.0, 30 + i, 40, 0.0, False) for i in range(4)]
    scheduler = DecodeScheduler(model, kv_tokens=150, reserved=0)
    runs = DecodeRuns(model, kv_tokens=150, reserved=0)
    retracted: list[int] = []
    stepped = play(scheduler, schedule, lambda _: retracted.append(scheduler.retracted))
    assert max(retracted) > 1
    assert changes(play(runs, schedule)) == changes(stepped)
