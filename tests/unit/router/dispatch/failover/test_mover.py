"""A drain with `move` empties a decode worker: its answers go on elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import PATIENCE_S, Start, System
from tests.unit.router.dispatch.failover.answers import CHAT, GENERATE, begin, break_one, decoders, hang, raw, shown
from tests.unit.router.fake_worker import FakeWorker, Fault, expected
from tests.unit.router.fleet_api import call

WHOLE = expected("w-math", "w-base", [5, 6, 7], 6)


def name_of(system: System, worker: FakeWorker) -> str:
    return next(name for name, each in system.workers.items() if each is worker)


async def move(system: System, worker: FakeWorker) -> None:
    status, said = await call(system, "POST", f"/workers/{name_of(system, worker)}/drain", {"move": True})
    assert (status, said["state"], said["moving"]) == (200, "draining", True)


@pytest.mark.invariant("I13")
async def test_answers_of_a_worker_that_is_drained_with_move_go_on_elsewhere(start: Start) -> None:
    """A stream with an event, one before its first, and an answer that is not streamed."""
    system = await begin(start)
    worker, streamed = await hang(system, "/v1/chat/completions", CHAT)
    (other,) = [each for each in decoders(system) if each is not worker]
    # the next requests go to the same worker, and wait there
    await call(system, "POST", f"/workers/{name_of(system, other)}/drain")
    worker.fault = Fault(wait=asyncio.Event())
    whole = asyncio.create_task(system.post("/generate", GENERATE))
    early = asyncio.create_task(raw(system, "/generate", GENERATE))
    await wait_until(lambda: len(worker.running) == 3)
    await move(system, worker)
    assert len(worker.running) == 3, "no other worker takes requests yet"
    assert await call(system, "POST", f"/workers/{name_of(system, other)}/resume")
    assert shown(await streamed)[0]["finish"] == ["length"]
    assert shown(await early)[0]["last"]["output_ids"] == WHOLE
    assert (await whole)[1]["output_ids"] == WHOLE
    assert worker.fault.wait is not None
    worker.fault.wait.set()
    await system.quiet()
    assert system.metric("sun_replays_total", task="math", reason="moved") == 3
    assert system.metric("sun_ejections_total", worker=name_of(system, worker)) == 0
    assert system.metric("sun_requests_total", task="math", outcome="ok") == 3
    assert {rid["rid"] for rid in worker.aborts} == {body["rid"] for _, body in worker.requests}


async def test_move_is_no_loss(start: Start) -> None:
    """An answer that has moved survives as many losses as before."""
    # no probe finds the death before the stream does
    system = await begin(start, 3, router={"probe_interval": PATIENCE_S})
    worker, asked = await hang(system, "/generate", GENERATE, after=2)
    break_one(system, Fault(die_after=4, times=1))
    await move(system, worker)
    assert shown(await asked)[0]["last"]["output_ids"] == WHOLE
    reasons = {reason: system.metric("sun_replays_total", task="math", reason=reason) for reason in ("moved", "broken")}
    assert reasons == {"moved": 1, "broken": 1}


async def test_answers_that_cannot_go_on_stay_on_the_worker(start: Start) -> None:
    system = await begin(start, router={"failover_tokens": 2})
    worker, asked = await hang(system, "/generate", GENERATE)
    await move(system, worker)
    assert system.router.registry.workers[name_of(system, worker)].load.requests == 1
    worker.go_on()
    assert shown(await asked)[0]["last"]["output_ids"] == WHOLE
    assert sum(len(each.requests) for each in decoders(system)) == 1


async def test_answers_of_a_task_without_failover_stay_on_the_worker(start: Start) -> None:
    system = await begin(start, failover=False)
    worker, asked = await hang(system, "/generate", GENERATE)
    await move(system, worker)
    worker.go_on()
    assert shown(await asked)[0]["last"]["output_ids"] == WHOLE
    assert sum(len(each.requests) for each in decoders(system)) == 1


async def test_prefill_worker_that_is_drained_with_move_keeps_what_it_has(start: Start) -> None:
    system: System = await start({"math": ("math", "base")}, {"math": 2, "base": 2})
    worker, asked = await hang(system, "/generate", GENERATE)
    busy = next(each for each in system.workers.values() if each.role == "prefill" and each.requests)
    status, said = await call(system, "POST", f"/workers/{name_of(system, busy)}/drain", {"move": True})
    assert (status, said["moving"]) == (200, False)
    worker.go_on()
    assert shown(await asked)[0]["last"]["output_ids"] == WHOLE


@pytest.mark.parametrize("body", [{"move": "maybe"}, {"mvoe": True}, [], "x"])
async def test_drain_with_a_wrong_body_is_refused(small: System, body: object) -> None:
    status, said = await call(small, "POST", "/workers/base-0/drain", body)
    assert (status, said["error"]["code"]) == (400, "invalid_change")
    assert small.router.registry.state("base-0") == "ready"


async def test_resume_ends_the_move(sun: System) -> None:
    await call(sun, "POST", "/workers/base-0/drain", {"move": True})
    assert sun.router.registry.workers["base-0"].moving
    assert (await call(sun, "POST", "/workers/base-0/resume"))[1]["moving"] is False
    # a drain without `move` ends an earlier one with it
    await call(sun, "POST", "/workers/base-0/drain", {"move": True})
    assert (await call(sun, "POST", "/workers/base-0/drain"))[1]["moving"] is False
