"""The router and its workers receive the signal to end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import PATIENCE_S, Start, System
from tests.unit.router.fake_worker import Fault
from tests.unit.router.math_requests import ANSWER, MATH, STREAMS, ask


async def ask_as(system: System, rid: str) -> tuple[int, Any]:
    return await system.post("/generate", {**MATH, "rid": rid})


async def test_fault_26_sigterm_lets_requests_in_flight_end(small: System) -> None:
    small["base-0"].fault = Fault(hang_after=2, times=1)
    asked = asyncio.create_task(small.events_of("/generate", {**MATH, "rid": "a", "stream": True}))
    await wait_until(lambda: any(t.attempts for t in small.router.in_flight.tickets))
    await wait_until(lambda: small["base-0"].running)
    stopping = asyncio.create_task(small.router.stop(2 * PATIENCE_S))
    await wait_until(lambda: small.router.draining.active)
    assert (await small.post("/generate", MATH))[0] == 503
    assert (await small.get("/health"))[0] == 503
    await small.post("/abort_request", {"rid": "a"})
    assert (await asked)[-1] == "[DONE]"
    await stopping


@pytest.mark.invariant("I13")
async def test_fault_26_a_worker_that_is_leaving_gets_nothing_new_and_keeps_what_it_has(start: Start) -> None:
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 2})
    for name in ("base-0", "base-1"):
        system[name].fault = Fault(hang_after=2, times=1)
    asked = [asyncio.create_task(ask_as(system, rid)) for rid in "ab"]
    await wait_until(lambda: system["base-0"].running and system["base-1"].running)
    system["base-0"].card_changes["leaving"] = True
    await wait_until(lambda: system.router.registry.state("base-0") == "draining")
    assert [await ask(system, stream=False) for _ in range(3)] == [ANSWER] * 3
    assert (len(system["base-0"].requests), len(system["base-1"].requests)) == (1, 4)
    assert not any(task.done() for task in asked)
    for rid in "ab":
        await system.post("/abort_request", {"rid": rid})
    assert [status for status, _ in await asyncio.gather(*asked)] == [200, 200]
    system["base-1"].card_changes["leaving"] = True
    await wait_until(lambda: not system.router.registry.usable("math"))
    assert (await system.post("/generate", MATH))[0] == 503
    # a new process of that name is as good as any
    system["base-0"].card_changes.clear()
    await system["base-0"].restart()
    await wait_until(lambda: system.router.registry.usable("math"))
    assert await ask(system, stream=False) == ANSWER
    await system.quiet()


@STREAMS
async def test_fault_26_what_does_not_end_in_time_gets_an_explicit_error(small: System, stream: bool) -> None:
    small["base-0"].fault = Fault(hang_after=2)
    if stream:
        asked = asyncio.create_task(small.events_of("/generate", {**MATH, "stream": True}))
        await wait_until(lambda: small["base-0"].stepped.is_set() and small["base-0"].running)
        await wait_until(lambda: any(a.reading_since for a in small.router.dispatcher.attempts))
        await small.router.stop(0.0)
        assert "shutting down" in (await asked)[-1]["error"]["message"]
    else:
        whole = asyncio.create_task(small.post("/generate", MATH))
        await wait_until(lambda: small["base-0"].running)
        await small.router.stop(0.0)
        status, reply = await whole
        assert status == 502
        assert "shutting down" in reply["error"]["message"]


async def test_stream_that_has_lost_its_worker_does_not_go_on_while_the_router_stops(start: Start) -> None:
    """The loss comes first, and the reader of the stream hears of it after the router has cut all streams off."""
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 2})
    for name in ("base-0", "base-1"):
        system[name].fault = Fault(hang_after=2)
    asked = asyncio.create_task(system.events_of("/generate", {**MATH, "stream": True}))
    await wait_until(lambda: any(a.reading_since for a in system.router.dispatcher.attempts))
    (attempt,) = system.router.dispatcher.attempts
    attempt.fail_decode("its process is gone")
    system.router.dispatcher.cut_all("the router is shutting down")
    assert "shutting down" in (await asked)[-1]["error"]["message"]
    assert len(system["math-0"].requests) == 1
