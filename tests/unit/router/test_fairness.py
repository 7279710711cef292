"""Caps, queues and shares: the scheduler's properties, and what tasks see of each other through the router."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.router.admission import QUANTUM, Admission, Caps, Claim, QueueFull, Share
from sun_sglang.router.expect import AnswerLengths
from sun_sglang.router.legs import estimate
from sun_sglang.router.request import Endpoint
from sun_sglang.sim.settings import parse_settings
from sun_sglang.sim.worker import EmulatedWorker

from .conftest import SUN, Start, System, free_port
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


async def test_what_is_over_the_cap_waits_and_then_goes(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 2})
    system["base-0"].fault = Fault(hang_after=2)
    asked = [asyncio.create_task(system.post("/generate", {**HANG, "stream": False, "rid": f"r{i}"})) for i in range(5)]
    await system.until(lambda: system.metric("sun_queued", task="math") == 3)
    await system.until(lambda: len(system["base-0"].running) == 2)
    for i in range(5):
        await system.until(lambda i=i: system.metric("sun_queued", task="math") == max(0, 3 - i))
        await system.client.post("/abort_request", json={"rid": f"r{i}"})
        await asked[i]
    await system.quiet()
    assert {status for status, _ in await asyncio.gather(*asked)} == {200}
    assert system.metric("sun_queue_seconds_count", task="math") == 3


async def test_a_full_queue_and_a_late_turn_are_a_429_with_retry_after(start: Start) -> None:
    limits = {"max_requests": 1, "queue_size": 1, "queue_timeout": 0.2}
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router=limits)
    system["base-0"].fault = Fault(hang_after=2)
    holds = asyncio.create_task(system.post("/generate", {**HANG, "stream": False, "rid": "r"}))
    await system.until(lambda: system["base-0"].running)
    waits = asyncio.create_task(system.post("/generate", HANG))
    await system.until(lambda: system.metric("sun_queued", task="math") == 1)
    async with system.client.post("/generate", json=HANG) as r:
        assert (r.status, (await r.json())["error"]["code"]) == (429, "queue_full")
        assert int(r.headers["Retry-After"]) >= 1
    status, reply = await waits
    assert (status, reply["error"]["type"], reply["error"]["code"]) == (429, "rate_limit_error", "queue_timeout")
    for why in ("full", "timeout"):
        assert system.metric("sun_turned_away_total", task="math", why=why) == 1
    await system.client.post("/abort_request", json={"rid": "r"})
    await holds
    await system.quiet()
    system["base-0"].fault = None
    assert (await system.post("/generate", {"model": "tool", "text": "hi"}))[0] == 200


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
    limits = {"first_token_timeout": 1.0, "load_interval": 0.05}
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router=limits)
    system["base-0"].fault = Fault(hang=True)
    system["base-0"].batches, system["base-0"].load = True, {"num_running_reqs": 1}
    async with system.client.post("/generate", json=HANG) as r:
        assert (r.status, (await r.json())["error"]["code"]) == (503, "overloaded")
        assert "Retry-After" in r.headers
    assert system.router.registry.unserved() == []
    await system.quiet()


# --- emulated workers -----------------------------------------------------------------------------------------------


@pytest.fixture
async def emulated(tmp_path: Path) -> AsyncIterator[dict[str, EmulatedWorker]]:
    """Two prefill workers and one decode worker, whose steps take a millisecond."""
    costs = tmp_path / "costs.yaml"
    costs.write_text("{decode_step: 0.001, prefill: 0.001, kv_tokens: 100000}")
    workers = {}
    for name, role in (("math-0", "prefill"), ("tool-0", "prefill"), ("base-0", "decode")):
        flags = ["--model-path", f"none/{name}", "--disaggregation-mode", role, "--port", "0"]
        flags += ["--disaggregation-bootstrap-port", str(free_port()), "--sim-costs", str(costs)]
        workers[name] = EmulatedWorker(parse_settings(flags))
        await workers[name].start()
    yield workers
    for worker in workers.values():
        await worker.stop()


async def test_fault_23_a_flooding_task_passes_no_more_than_a_turn_of_its_requests(
    emulated: dict[str, EmulatedWorker], over: Any
) -> None:
    """How late a quiet task's request is, in requests of the flood that were begun before it."""
    system: System = await over(
        SUN, {n: f"http://127.0.0.1:{w.server.port}" for n, w in emulated.items()}, {"max_requests": 4}
    )
    flood = {"model": "math", "input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 100, "ignore_eos": True}}
    asked = [asyncio.create_task(system.post("/generate", flood)) for _ in range(60)]
    await system.until(lambda: system.metric("sun_queued", task="math") >= 50)

    def begun() -> int:
        return 60 - int(system.metric("sun_queued", task="math"))

    before = begun()
    status, reply = await system.post("/generate", {**flood, "model": "tool"})
    after = begun()
    assert (status, reply["meta_info"]["completion_tokens"]) == (200, 100)
    # one turn of the flood, and what ran beside it from then on
    assert after - before <= QUANTUM // 100 + 2 * 4
    assert {s for s, _ in await asyncio.gather(*asked)} == {200}
    assert system.metric("sun_requests_total", task="math", outcome="ok") == 60
