"""Caps, queues and shares as clients see them through the router; `test_fair_queue` has the scheduler's properties."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.scheduling.cost import Cost, OutputLengths, estimate_cost
from tests.unit.router.conftest import PATIENCE_S, SUN, Start, System
from tests.unit.router.fake_worker import Fault


def test_expected_answers() -> None:
    lengths = OutputLengths()
    assert lengths.expected("math") == 0
    lengths.record("math", 100)
    for _ in range(1000):
        lengths.record("math", 40)
    assert lengths.expected("math") == 40
    body: dict[str, Any] = {"prompt": [1, 2, 3]}
    assert estimate_cost(Endpoint.COMPLETIONS, body, 40) == (3, 43)
    assert estimate_cost(Endpoint.COMPLETIONS, body | {"max_tokens": 7}, 40) == (3, 10)
    assert estimate_cost(Endpoint.COMPLETIONS, body | {"max_tokens": 1 << 31}, 40, 1024) == (3, 1024)


def test_offered_work_of_an_answer_is_its_limit_before_any_answer_and_the_mean_of_its_task_later() -> None:
    lengths = OutputLengths()
    assert lengths.demand("math", Cost(100, 300))[:3] == (1, 200, 100 * 200 + 200 * 200 / 2)
    lengths.record("math", 20)
    assert lengths.demand("math", Cost(100, 300))[:3] == (1, 20, 100 * 20 + 20 * 20 / 2)
    assert lengths.demand("math", Cost(100, 110)) == lengths.demand("math", Cost(100, 300))
    assert lengths.demand("tool", Cost(100, 300)) == lengths.demand("math", Cost(100, 300)), "the best guess so far"
    for _ in range(1000):
        lengths.record("math", 10)
        lengths.record("math", 30)
    offered = lengths.demand("math", Cost(100, 300))
    # long answers read more context than their mean length tells
    assert offered.tokens == pytest.approx(20, rel=0.02)
    assert offered.context_tokens == pytest.approx(100 * 20 + (10 * 10 + 30 * 30) / 2 / 2, rel=0.02)


# --- through the router ---------------------------------------------------------------------------------------------

HANG = {"model": "math", "text": "hi", "stream": True}


async def hold(system: System, *rids: str) -> list[asyncio.Task[Any]]:
    """Send requests that never end by themselves, each in flight before the next is sent."""
    asked = []
    for rid in rids:
        before = len(system.router.in_flight.tickets)
        asked.append(asyncio.create_task(system.post("/generate", {**HANG, "stream": False, "rid": rid})))
        await wait_until(lambda before=before: len(system.router.in_flight.tickets) > before)
    return asked


async def test_what_is_over_the_cap_waits_and_then_goes(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 2})
    system["base-0"].fault = Fault(hang_after=2)
    asked = await hold(system, *(f"r{i}" for i in range(5)))
    await wait_until(lambda: system.metric("sun_queued", task="math") == 3)
    await wait_until(lambda: len(system["base-0"].running) == 2)
    for i in range(5):
        await wait_until(lambda i=i: system.metric("sun_queued", task="math") == max(0, 3 - i))
        await system.client.post("/abort_request", json={"rid": f"r{i}"})
        await asked[i]
    await system.quiet()
    assert {status for status, _ in await asyncio.gather(*asked)} == {200}
    assert system.metric("sun_queue_seconds_count", task="math") == 3


async def test_offered_work_counts_each_answer_once_and_those_that_are_turned_away(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 1, "queue_size": 0})
    body = {"model": "math", "input_ids": [5] * 10, "sampling_params": {"max_new_tokens": 4, "n": 2}}
    system["base-0"].fault = Fault(hang_after=2)
    asked = await hold(system, "r0")
    status, _ = await system.post("/generate", body)
    assert status == 429
    await system.client.get("/metrics")
    assert system.metric("sun_offered_answers_total", pool="base") == 1 + 2
    await system.client.post("/abort_request", json={"rid": "r0"})
    await asked[0]
    report = (await (await system.client.get("/tasks")).json())["offered"]["base"]
    assert report["answers"] == 1 + 2


async def test_a_full_queue_is_a_429_with_retry_after(start: Start) -> None:
    limits = {"max_requests": 1, "queue_size": 1, "queue_timeout": 2 * PATIENCE_S}
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router=limits)
    system["base-0"].fault = Fault(hang_after=2)
    asked = await hold(system, "r", "w")
    await wait_until(lambda: system.metric("sun_queued", task="math") == 1)
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
    await wait_until(lambda: system["base-0"].running)
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
    await wait_until(lambda: system["base-0"].running)
    await system["tool-0"].stop()
    await wait_until(lambda: system.router.registry.unserved() == ["tool"])
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
    await wait_until(lambda: system["base-0"].running)
    waits = asyncio.create_task(system.post("/generate", {**HANG, "rid": "w"}))
    await wait_until(lambda: system.metric("sun_queued", task="math") == 1)
    if how == "abort":
        await system.client.post("/abort_request", json={"rid": "w"})
        assert (await waits)[1]["error"]["code"] == "aborted"
    elif how == "leave":
        waits.cancel()
        await wait_until(lambda: system.metric("sun_queued", task="math") == 0)
    else:
        await system.router.stop(0.0)
        assert (await waits)[0] == 503
    if how != "shut down":
        await system.client.post("/abort_request", json={"rid": "r"})
    await holds
    await system.quiet()
    assert system.router.queue.waiting("math") == 0


def wide(*rids: str, **more: Any) -> dict[str, Any]:
    """Return a request for several answers, each under an id of its own."""
    return {"model": "math", "text": [f"of {rid}" for rid in rids], "rid": list(rids), **more}


async def test_request_wider_than_the_cap_lets_another_task_go_when_one_answer_ends(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 2})
    system["base-0"].fault = Fault(hang_after=1)
    asked = asyncio.create_task(system.post("/generate", wide("a", "b", "c")))
    await wait_until(lambda: len(system["base-0"].running) == 2)
    other = asyncio.create_task(system.post("/generate", {"model": "tool", "text": "hi", "rid": "other"}))
    await wait_until(lambda: system.metric("sun_queued", task="tool") == 1)
    assert system.metric("sun_queued", task="math") == 1
    await system.client.post("/abort_request", json={"rid": "a"})
    await wait_until(lambda: system["tool-0"].requests)
    assert (len(system["base-0"].running), system.metric("sun_queued", task="math")) == (2, 1)
    for rid in ("other", "b"):
        await system.client.post("/abort_request", json={"rid": rid})
    await wait_until(lambda: system.metric("sun_queued", task="math") == 0)
    await wait_until(lambda: any(t.rid == "c" and t.attempts for t in system.router.in_flight.tickets))
    await system.client.post("/abort_request", json={"rid": "c"})
    assert (await other)[0] == 200
    status, reply = await asked
    assert (status, len(reply)) == (200, 3)
    await system.quiet()


async def test_request_wider_than_the_cap_does_not_wait_for_an_empty_router(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 2})
    system["base-0"].fault = Fault(hang_after=1, times=1)
    (holds,) = await hold(system, "r")
    await wait_until(lambda: system["base-0"].running)
    status, reply = await system.post("/generate", wide("a", "b", "c"))
    assert (status, len(reply)) == (200, 3)
    assert not holds.done()
    await system.client.post("/abort_request", json={"rid": "r"})
    await holds
    await system.quiet()


async def test_stream_of_more_answers_than_slots_ends_with_all_of_them(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 2})
    body = {"model": "math", "prompt": "hi", "n": 5, "max_tokens": 3, "stream": True}
    events = await system.events_of("/v1/completions", body)
    assert events[-1] == "[DONE]"
    finished = [c["index"] for e in events[:-1] for c in e["choices"] if c["finish_reason"]]
    assert sorted(finished) == [0, 1, 2, 3, 4]
    await system.quiet()


async def test_request_that_has_begun_is_not_ended_by_the_queue_timeout(start: Start) -> None:
    limits = {"max_requests": 2, "queue_timeout": 0.2}
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router=limits)
    system["base-0"].fault = Fault(hang_after=1, times=2)
    asked = asyncio.create_task(system.post("/generate", wide("a", "b", "c")))
    await wait_until(lambda: len(system["base-0"].running) == 2)
    # it came later and has the same deadline
    status, reply = await system.post("/generate", {"model": "tool", "text": "hi"})
    assert (status, reply["error"]["code"]) == (429, "queue_timeout")
    assert system.metric("sun_queued", task="math") == 1
    for rid in ("a", "b"):
        await system.client.post("/abort_request", json={"rid": rid})
    status, reply = await asked
    assert (status, len(reply)) == (200, 3)
    await system.quiet()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["abort", "leave", "shut down"])
async def test_request_that_has_begun_can_end_while_some_answers_wait(start: Start, how: str, stream: bool) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 2})
    system["base-0"].fault = Fault(hang_after=0)
    asked = asyncio.create_task(system.post("/generate", wide("a", "b", "c", "d", stream=stream)))
    await wait_until(lambda: len(system["base-0"].running) == 2)
    assert system.metric("sun_queued", task="math") == 2
    if how == "abort":
        await system.client.post("/abort_request", json={"rid": "c"})
        status, reply = await asked
        assert (status, reply["error"]["code"]) == (400, "aborted")
    elif how == "leave":
        asked.cancel()
    else:
        await system.router.stop(0.0)
        assert (await asked)[0] in (502, 503)
    await wait_until(lambda: not system["base-0"].running)
    await system.quiet()
    assert system.router.queue.waiting("math") == 0
    assert system.metric("sun_queued", task="math") == 0


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
    await wait_until(lambda: base.running)
    await wait_until(lambda: system.router.dispatcher.attempts)
    (attempt,) = system.router.dispatcher.attempts
    before = system.router.clock.now()
    await wait_until(lambda: attempt.results["prefill"] is not None and worker.last_progress > before)
    system.router.dispatcher.attempts.expire(attempt, 2 * PATIENCE_S, whole=False)
    assert await asked == (503, "overloaded", True)
    assert system.router.registry.unserved() == []
    await system.quiet()


async def test_fault_23_a_flooding_task_lets_a_quiet_one_go_first(start: Start) -> None:
    """How late a quiet task's request is, in requests of the flood that end before it begins."""
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 4})
    base, inflight = system["base-0"], system.router.in_flight
    base.fault = Fault(hang_after=1)
    flood = {"model": "math", "input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 100}}
    asked = [asyncio.create_task(system.post("/generate", {**flood, "rid": f"f{i}"})) for i in range(60)]
    await wait_until(lambda: len(inflight.tickets) == 60 and len(base.running) == 4)
    asked.append(asyncio.create_task(system.post("/generate", {**flood, "model": "tool", "rid": "quiet"})))
    await wait_until(lambda: system.metric("sun_queued", task="tool") == 1)
    passed = 0
    while not system["tool-0"].requests:
        one = next(ticket for ticket in inflight.tickets if ticket.attempts)
        await system.client.post("/abort_request", json={"rid": one.rid})
        await wait_until(lambda one=one: one not in inflight.tickets and len(base.running) == 4)
        passed += 1
    assert passed == 1, "the first slot that is free is the quiet task's"
    await system.client.post("/abort_request", json={"abort_all": True})
    assert {status for status, _ in await asyncio.gather(*asked)} <= {200, 400}
    await system.quiet()
