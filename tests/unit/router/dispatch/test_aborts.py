"""Aborts by clients."""

from __future__ import annotations

import asyncio

import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import PATIENCE_S, System, set_deadlines
from tests.unit.router.fake_worker import Fault
from tests.unit.router.math_requests import MATH, STREAMS, aborted


@pytest.mark.invariant("I3")
@STREAMS
@pytest.mark.parametrize("endpoint", ["/generate", "/v1/completions"])
async def test_fault_13_both_legs_of_every_endpoint_are_aborted(small: System, stream: bool, endpoint: str) -> None:
    small["math-0"].fault = Fault(hang=True)
    body = {**MATH, "prompt": "hi", "stream": stream}
    if endpoint == "/v1/completions":
        body = {"model": "math", "prompt": "hi", "stream": stream}
    else:
        del body["prompt"]
    asked = asyncio.create_task(small.post(endpoint, body))
    await wait_until(lambda: small["math-0"].running and small["base-0"].running)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await aborted(small, "math-0")
    await aborted(small, "base-0")
    await small.quiet()
    assert small.metric("sun_requests_total", task="math", outcome="disconnected") == 1


async def test_fault_17_an_unknown_rid_and_abort_all(small: System) -> None:
    small["base-0"].fault = Fault(hang_after=1)
    asked = [asyncio.create_task(small.post("/generate", MATH)) for _ in range(3)]
    await wait_until(lambda: len(small["base-0"].running) == 3)
    async with small.client.post("/abort_request", json={"rid": ""}) as r:
        assert r.status == 200
    assert len(small["base-0"].running) == 3
    async with small.client.post("/abort_request", json={"abort_all": True}) as r:
        assert r.status == 200
    assert {(await a)[1]["meta_info"]["finish_reason"]["type"] for a in asked} == {"abort"}
    assert (await small.post("/abort_request", {"rid": 3}))[0] == 400


async def test_fault_17_an_abort_before_dispatch(small: System) -> None:
    set_deadlines(small.router.dispatcher.recovery, recovery=PATIENCE_S)
    await small["base-0"].stop()
    await wait_until(lambda: small.router.registry.unserved())
    asked = asyncio.create_task(small.post("/generate", {**MATH, "rid": "a"}))
    await wait_until(lambda: small.router.in_flight.tickets)
    await small.post("/abort_request", {"rid": "a"})
    await small["base-0"].restart()
    status, reply = await asked
    assert (status, reply["error"]["code"]) == (400, "aborted")
    assert not small["base-0"].requests


async def test_fault_17_a_rid_that_is_in_flight_is_refused(small: System) -> None:
    small["base-0"].fault = Fault(hang_after=1, times=1)
    first = asyncio.create_task(small.post("/generate", {**MATH, "rid": "a"}))
    await wait_until(lambda: small["base-0"].running)
    assert (await small.post("/generate", {**MATH, "rid": "a"}))[0] == 400
    await small.post("/abort_request", {"rid": "a"})
    await first
    assert (await small.post("/generate", {**MATH, "rid": "a"}))[0] == 200
