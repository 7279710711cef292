"""Caps, queues and shares: the scheduler's properties, and what tasks see of each other through the router."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.router.admission import QUANTUM, Admission, Caps, Claim, QueueFull, Share
from sun_sglang.router.expect import AnswerLengths
from sun_sglang.router.legs import estimate
from sun_sglang.router.request import Endpoint

from .conftest import PATIENCE_S, SUN, Start, System
from .fake_worker import Fault

NO_SHARES: dict[str, Share] = {}


def admission(caps: Caps, shares: dict[str, Share] = NO_SHARES, queue_size: int = 10_000) -> Admission:
    return Admission(caps, queue_size, lambda task: shares.get(task, Share()))


# --- the scheduler --------------------------------------------------------------------------------------------------

CAPS = st.builds(Caps, st.none() | st.integers(1, 6), st.none() | st.integers(1, 3000))
SHARES = st.builds(Share, st.sampled_from([0.01, 0.5, 1.0, 3.0]), CAPS)
TASKS = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), TASKS, st.integers(1, 3), st.integers(0, 4000)),
        st.tuples(st.just("end"), st.integers(0, 99)),
        st.tuples(st.just("give up"), st.integers(0, 99)),
    ),
    max_size=80,
)


class Model:
    """What must be true of an admission, counted by hand."""

    def __init__(self, caps: Caps, shares: dict[str, Share]) -> None:
        self.caps, self.shares = caps, shares
        self.of = admission(caps, shares)
        self.running: list[Claim] = []
        self.waiting: list[Claim] = []

    def step(self, step: Any) -> None:
        match step:
            case ("come", task, requests, tokens):
                claim = Claim(task, requests, tokens)
                self.waiting.append(claim)
                self.admit(self.of.enter(claim))
            case ("end", i) if self.running:
                self.admit(self.of.leave(self.running.pop(i % len(self.running))))
            case ("give up", i) if self.waiting:
                self.admit(self.of.leave(self.waiting.pop(i % len(self.waiting))))

    def admit(self, claims: list[Claim]) -> None:
        for claim in claims:
            assert claim.admitted
            first = next(c for c in self.waiting if c.task == claim.task)
            assert claim is first, "a task's own requests keep their order"
            self.waiting.remove(claim)
            self.running.append(claim)
            self.within(self.caps, self.running)
            self.within(self.shares[claim.task].caps, [c for c in self.running if c.task == claim.task])

    def within(self, caps: Caps, running: list[Claim]) -> None:
        if len(running) > 1:
            assert caps.requests is None or sum(c.requests for c in running) <= caps.requests
            assert caps.tokens is None or sum(c.tokens for c in running) <= caps.tokens

    def fits(self, claim: Claim) -> bool:
        for caps, running in (
            (self.caps, self.running),
            (self.shares[claim.task].caps, [c for c in self.running if c.task == claim.task]),
        ):
            try:
                self.within(caps, [*running, claim])
            except AssertionError:
                return False
        return True

    def heads(self) -> list[Claim]:
        return [next(c for c in self.waiting if c.task == task) for task in dict.fromkeys(c.task for c in self.waiting)]


@given(CAPS, SHARES, SHARES, SHARES, STEPS)
def test_caps_hold_order_is_kept_and_nothing_is_lost(
    caps: Caps, a: Share, b: Share, c: Share, steps: list[Any]
) -> None:
    model = Model(caps, {"a": a, "b": b, "c": c})
    for step in steps:
        model.step(step)
        assert model.of.requests == sum(x.requests for x in model.running)
        assert model.of.tokens == sum(x.tokens for x in model.running)
        assert sum(model.of.waiting(t) for t in "abc") == len(model.waiting)
    while model.running:
        model.admit(model.of.leave(model.running.pop(0)))
    assert not model.waiting, "whoever waits is admitted in the end"
    assert (model.of.requests, model.of.tokens) == (0, 0)


@given(st.integers(1, 6), SHARES, SHARES, SHARES, STEPS)
def test_no_place_is_left_empty_while_a_request_could_take_it(
    most: int, a: Share, b: Share, c: Share, steps: list[Any]
) -> None:
    model = Model(Caps(most, None), {"a": a, "b": b, "c": c})
    for step in steps:
        model.step(("come", step[1], 1, step[3]) if step[0] == "come" else step)
        assert not any(model.fits(head) for head in model.heads())


@given(CAPS, STEPS)
def test_with_caps_on_tokens_only_the_next_in_turn_is_held_back(caps: Caps, steps: list[Any]) -> None:
    model = Model(caps, dict.fromkeys("abc", Share()))
    for step in steps:
        model.step(step)
        heads = model.heads()
        assert not heads or not all(model.fits(head) for head in heads)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2),
    st.integers(0, 1 << 30),
    st.integers(1, 5),
    st.sampled_from([1, 300, 5000]),
)
def test_shares_are_kept_within_a_quantum(weights: dict[str, float], seed: int, places: int, largest: int) -> None:
    """While all have requests waiting: the bound of Shreedhar and Varghese (1996), in units of weight."""
    rng = random.Random(seed)
    of = admission(Caps(places, None), {t: Share(w) for t, w in weights.items()})
    running = [c for task in weights for _ in range(300) for c in of.enter(Claim(task, 1, rng.randint(1, largest)))]
    served: Counter[str] = Counter()
    while all(of.waiting(t) for t in weights):
        for claim in of.leave(running.pop(rng.randrange(len(running)))):
            running.append(claim)
            served[claim.task] += claim.tokens
    for i in weights:
        for j in weights:
            apart = abs(served[i] / weights[i] - served[j] / weights[j])
            assert apart <= 2 * QUANTUM + 2 * largest / weights[i] + 2 * largest / weights[j]


def test_a_flood_is_passed_in_one_turn() -> None:
    of = admission(Caps(4, None))
    running = [c for _ in range(1000) for c in of.enter(Claim("flood", 1, 200))]
    victim = Claim("quiet", 1, 200)
    assert of.enter(victim) == []
    passed = 0
    while not victim.admitted:
        of.leave(running.pop(0))
        passed += 1
    assert passed <= 1 + QUANTUM // 200


def test_a_full_queue_is_the_floods_own() -> None:
    of = admission(Caps(1, None), queue_size=2)
    for _ in range(3):
        of.enter(Claim("flood", 1, 1))
    with pytest.raises(QueueFull):
        of.enter(Claim("flood", 1, 1))
    assert of.enter(Claim("quiet", 1, 1)) == []


def test_where_none_may_wait_one_that_fits_still_goes() -> None:
    of = admission(Caps(2, None), queue_size=0)
    assert of.enter(Claim("a", 1, 9))
    assert of.enter(Claim("b", 1, 9))
    with pytest.raises(QueueFull):
        of.enter(Claim("b", 1, 9))


def test_expected_answers() -> None:
    lengths = AnswerLengths()
    assert lengths.expected("math") == 0
    lengths.note("math", 100)
    for _ in range(1000):
        lengths.note("math", 40)
    assert lengths.expected("math") == 40
    body: dict[str, Any] = {"prompt": [1, 2, 3]}
    assert estimate(Endpoint.COMPLETIONS, body, 40) == (3, 43)
    assert estimate(Endpoint.COMPLETIONS, body | {"max_tokens": 7}, 40) == (3, 10)
    assert estimate(Endpoint.COMPLETIONS, body | {"max_tokens": 1 << 31}, 40, 1024) == (3, 1024)


# --- through the router ---------------------------------------------------------------------------------------------

HANG = {"model": "math", "text": "hi", "stream": True}


async def hold(system: System, *rids: str) -> list[asyncio.Task[Any]]:
    """Requests that never end by themselves, each in flight before the next is sent."""
    asked = []
    for rid in rids:
        before = len(system.router.inflight.tickets)
        asked.append(asyncio.create_task(system.post("/generate", {**HANG, "stream": False, "rid": rid})))
        await system.until(lambda before=before: len(system.router.inflight.tickets) > before)
    return asked


async def test_what_is_over_the_cap_waits_and_then_goes(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 2})
    system["base-0"].fault = Fault(hang_after=2)
    asked = await hold(system, *(f"r{i}" for i in range(5)))
    await system.until(lambda: system.metric("sun_queued", task="math") == 3)
    await system.until(lambda: len(system["base-0"].running) == 2)
    for i in range(5):
        await system.until(lambda i=i: system.metric("sun_queued", task="math") == max(0, 3 - i))
        await system.client.post("/abort_request", json={"rid": f"r{i}"})
        await asked[i]
    await system.quiet()
    assert {status for status, _ in await asyncio.gather(*asked)} == {200}
    assert system.metric("sun_queue_seconds_count", task="math") == 3


async def test_a_full_queue_is_a_429_with_retry_after(start: Start) -> None:
    limits = {"max_requests": 1, "queue_size": 1, "queue_timeout": 2 * PATIENCE_S}
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router=limits)
    system["base-0"].fault = Fault(hang_after=2)
    asked = await hold(system, "r", "w")
    await system.until(lambda: system.metric("sun_queued", task="math") == 1)
    async with system.client.post("/generate", json=HANG) as r:
        assert (r.status, (await r.json())["error"]["code"]) == (429, "queue_full")
        assert int(r.headers["Retry-After"]) >= 1
    assert system.metric("sun_turned_away_total", task="math", why="full") == 1
    for rid in "wr":
        await system.client.post("/abort_request", json={"rid": rid})
    assert [status for status, _ in await asyncio.gather(*asked)] == [200, 400]
    await system.quiet()
    system["base-0"].fault = None
    assert (await system.post("/generate", {"model": "tool", "text": "hi"}))[0] == 200


async def test_a_late_turn_is_a_429_with_retry_after(start: Start) -> None:
    limits = {"max_requests": 1, "queue_timeout": 0.2}
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router=limits)
    system["base-0"].fault = Fault(hang_after=2)
    (holds,) = await hold(system, "r")
    await system.until(lambda: system["base-0"].running)
    async with system.client.post("/generate", json=HANG) as r:
        error = (await r.json())["error"]
        assert (r.status, error["type"], error["code"]) == (429, "rate_limit_error", "queue_timeout")
        assert int(r.headers["Retry-After"]) >= 1
    assert system.metric("sun_turned_away_total", task="math", why="timeout") == 1
    await system.client.post("/abort_request", json={"rid": "r"})
    assert (await holds)[0] == 200
    await system.quiet()


async def test_a_task_that_nothing_can_serve_does_not_wait(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 1})
    system["base-0"].fault = Fault(hang_after=2)
    holds = asyncio.create_task(system.post("/generate", {**HANG, "stream": False, "rid": "r"}))
    await system.until(lambda: system["base-0"].running)
    await system["tool-0"].stop()
    await system.until(lambda: system.router.registry.unserved() == ["tool"])
    status, reply = await system.post("/generate", {"model": "tool", "text": "hi"})
    assert (status, reply["error"]["code"]) == (503, "no_worker")
    await system.client.post("/abort_request", json={"rid": "r"})
    await holds
    await system.quiet()


@pytest.mark.parametrize("how", ["abort", "leave", "shut down"])
async def test_one_that_waits_can_go(start: Start, how: str) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 1})
    system["base-0"].fault = Fault(hang_after=2)
    holds = asyncio.create_task(system.post("/generate", {**HANG, "stream": False, "rid": "r"}))
    await system.until(lambda: system["base-0"].running)
    waits = asyncio.create_task(system.post("/generate", {**HANG, "rid": "w"}))
    await system.until(lambda: system.metric("sun_queued", task="math") == 1)
    if how == "abort":
        await system.client.post("/abort_request", json={"rid": "w"})
        assert (await waits)[1]["error"]["code"] == "aborted"
    elif how == "leave":
        waits.cancel()
        await system.until(lambda: system.metric("sun_queued", task="math") == 0)
    else:
        await system.router.stop(0.0)
        assert (await waits)[0] == 503
    if how != "shut down":
        await system.client.post("/abort_request", json={"rid": "r"})
    await holds
    await system.quiet()
    assert system.router.gate.waiting("math") == 0


async def test_a_full_decode_worker_that_runs_batches_is_overloaded_and_stays(start: Start) -> None:
    """Row 22: its KV is full of others' answers, so nothing new begins before the deadline."""
    limits = {"first_token_timeout": 2 * PATIENCE_S, "load_interval": 0.05}
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router=limits)
    base, worker = system["base-0"], system.router.registry.workers["base-0"]
    base.fault = Fault(hang=True)
    base.batches, base.load = True, {"num_running_reqs": 1}

    async def ask() -> tuple[int, str, bool]:
        async with system.client.post("/generate", json=HANG) as r:
            return r.status, (await r.json())["error"]["code"], "Retry-After" in r.headers

    asked = asyncio.create_task(ask())
    await system.until(lambda: base.running)
    await system.until(lambda: system.router.dispatcher.attempts)
    (attempt,) = system.router.dispatcher.attempts
    before = system.router.clock.now()
    await system.until(lambda: attempt.heard["prefill"] is not None and worker.answered > before)
    system.router.dispatcher.expire(attempt, 2 * PATIENCE_S, whole=False)
    assert await asked == (503, "overloaded", True)
    assert system.router.registry.unserved() == []
    await system.quiet()


async def test_fault_23_a_flooding_task_passes_no_more_than_a_turn_of_its_requests(start: Start) -> None:
    """How late a quiet task's request is, in requests of the flood that were begun before it."""
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 4})
    base, inflight = system["base-0"], system.router.inflight
    base.fault = Fault(hang_after=1)
    flood = {"model": "math", "input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 100}}
    asked = [asyncio.create_task(system.post("/generate", {**flood, "rid": f"f{i}"})) for i in range(60)]
    await system.until(lambda: len(inflight.tickets) == 60 and len(base.running) == 4)
    asked.append(asyncio.create_task(system.post("/generate", {**flood, "model": "tool", "rid": "quiet"})))
    await system.until(lambda: system.metric("sun_queued", task="tool") == 1)
    passed = 0
    while not system["tool-0"].requests:
        one = next(ticket for ticket in inflight.tickets if ticket.attempts)
        await system.client.post("/abort_request", json={"rid": one.rid})
        await system.until(lambda one=one: one not in inflight.tickets and len(base.running) == 4)
        passed += 1
    # as many as end until it is begun, the last of them for its own sake
    assert passed <= 1 + QUANTUM // 100
    await system.client.post("/abort_request", json={"abort_all": True})
    assert {status for status, _ in await asyncio.gather(*asked)} <= {200, 400}
    await system.quiet()
