"""Answers that make no progress."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.dispatch.attempt import Attempt
from tests.unit.router.conftest import Start, System
from tests.unit.router.fake_worker import Fault
from tests.unit.router.math_requests import ANSWER, MATH, STREAMS, aborted, ask, refuse


@pytest.mark.invariant("I6")
async def test_fault_08_a_stream_that_stalls_is_cut_off_with_an_error(start: Start) -> None:
    system = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router={"idle_timeout": 0.2})
    system["base-0"].fault = Fault(hang_after=2)
    events = await system.events_of("/generate", {**MATH, "stream": True})
    assert "no token for 0.2 s" in events[-1]["error"]["message"]
    await system.quiet()
    await aborted(system, "base-0")
    assert system.metric("sun_ejections_total", worker="base-0") == 1


async def test_fault_08_a_decode_worker_that_stands_still_loses_its_whole_answers(start: Start) -> None:
    tasks = {"math": ("math", "base")}
    system = await start(tasks, {"math": 1, "base": 2}, router={"idle_timeout": 0.4}, failover=False)
    system["base-0"].fault = system["base-1"].fault = Fault(hang_after=1, times=1)
    reply = await refuse(system, 504)
    assert reply["error"]["code"] == "worker_stalled"
    assert "it has requests and ran no batch for 0.2 s" in system.log.getvalue()
    assert await ask(system, stream=False) == ANSWER
    assert sum(system.metric("sun_ejections_total", worker=name) for name in ("base-0", "base-1")) == 1


def waiting(system: System) -> Attempt | None:
    """Return the attempt whose answer is silent."""
    return next((a for a in system.router.dispatcher.attempts if a.silent_since < float("inf")), None)


@STREAMS
async def test_fault_08_a_silent_answer_of_a_worker_that_runs_batches_goes_on(start: Start, stream: bool) -> None:
    """SGLang's tool-call parsers hold a stream back while the worker makes its tokens."""
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router={"idle_timeout": 0.2})
    system["base-0"].batches = True
    system["base-0"].fault = Fault(hang_after=2)
    asked = asyncio.create_task(ask(system, stream))
    await wait_until(lambda: waiting(system))
    attempt = waiting(system)
    assert attempt is not None
    clock = system.router.clock
    await wait_until(lambda: clock.now() - attempt.silent_since > 1 and system["base-0"].looked > 5)
    assert not asked.done()
    system["base-0"].go_on()
    assert await asked == ANSWER
    assert system.metric("sun_ejections_total", worker="base-0") == 0


@STREAMS
async def test_fault_08_a_silent_answer_ends_alone_after_answer_timeout(start: Start, stream: bool) -> None:
    limits = {"idle_timeout": 0.1, "answer_timeout": 0.3}
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router=limits)
    system["base-0"].batches = True
    system["base-0"].fault = Fault(hang_after=2)
    if stream:
        events = await system.events_of("/generate", {**MATH, "stream": True})
        assert "no token for 0.3 s" in events[-1]["error"]["message"]
    else:
        assert (await refuse(system, 504))["error"]["code"] == "answer_timeout"
    await system.quiet()
    await aborted(system, "base-0")
    assert system.metric("sun_ejections_total", worker="base-0") == 0
    assert system.router.registry.state("base-0") == "ready"


@STREAMS
async def test_fault_08_a_worker_that_sends_others_their_bytes_does_not_stand_still(start: Start, stream: bool) -> None:
    """Its load has no new stamp: the bytes of its other answers show that it works."""
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router={"idle_timeout": 60})
    system["base-0"].fault = Fault(hang_after=2)
    asked = [asyncio.create_task(ask(system, s)) for s in (stream, True)]
    await wait_until(lambda: sum(a.silent_since < float("inf") for a in system.router.dispatcher.attempts) == 2)
    stalls, base, now = (
        system.router.stall_detector,
        system.router.registry.workers["base-0"],
        system.router.clock.now(),
    )
    first, other = sorted(system.router.dispatcher.attempts, key=lambda a: a.request.stream is not stream)
    first.reading_since, first.decoding_since = (now - 100, None) if stream else (None, now - 100)
    stalls.note_stamp("base-0", 7, now - 100)
    base.note_progress(now - 100)
    first.legs["decode"].arrived = now - 100
    stalls.check(base)
    assert base.card is not None
    assert not any(task.done() for task in asked)
    other.legs["decode"].arrived = now - 100
    stalls.check(base)
    assert base.card is None
    await asyncio.gather(*asked, return_exceptions=True)


async def test_a_slow_client_is_no_idle_stream(start: Start) -> None:
    system = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router={"idle_timeout": 60.0})
    async with aiohttp.ClientSession(base_url=system.router.url) as client:
        body = {"model": "math", "prompt": "hi", "stream": True, "max_tokens": 500}
        async with client.post("/v1/completions", json=body) as r:
            first = await r.content.readuntil(b"\n\n")
            assert first
            rest = await r.read()
    assert rest.endswith(b"data: [DONE]\n\n")
