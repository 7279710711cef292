"""Rows of the fault table as decisions: the requests to each worker, and every variant of a row, over fake workers.

Whole rows with their time bounds are in `tests/system/faults`, over processes that are killed and stopped.
"""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import Start, System
from tests.unit.router.fake_worker import Fault
from tests.unit.router.math_requests import ANSWER, MATH, STREAMS, aborted, ask, only_once, refuse


@STREAMS
@pytest.mark.parametrize("worker", ["math-0", "base-0"])
async def test_a_connection_that_closes_without_an_answer_is_no_dead_worker(
    small: System, stream: bool, worker: str
) -> None:
    small[worker].fault = Fault(drop=True, times=1)
    assert await ask(small, stream) == ANSWER
    assert small.router.registry.state(worker) == "ready"
    assert [e["event"] for e in small.events].count("stale_connection") == 1
    assert small.metric("sun_ejections_total", worker=worker) == 0
    assert small.metric("sun_retries_total", task="math", leg="prefill") == 0
    only_once(small)


@pytest.mark.parametrize("stale", [["math-0"], ["base-0"], ["math-0", "base-0"]])
async def test_stale_connection_leaves_the_retry_for_a_fault(sun: System, stale: list[str]) -> None:
    """No worker receives an id or a room twice, after any fault."""
    for name in stale:
        sun[name].fault = Fault(drop=True, times=1)
    sun["math-1"].fault = Fault(status=500, times=1)
    assert [await ask(sun, stream=i % 2 > 0) for i in range(6)] == [ANSWER] * 6
    assert sun.metric("sun_retries_total", task="math", leg="prefill") == 1
    assert "stale_connection" in [e["event"] for e in sun.events]
    only_once(sun)


@pytest.mark.invariant("I5")
async def test_worker_that_closes_every_connection_fails_a_request_after_one_repetition_and_one_retry(
    small: System,
) -> None:
    small["math-0"].fault = Fault(drop=True)
    reply = await refuse(small, 502)
    assert reply["error"]["code"] == "prefill_lost"
    assert len(small["math-0"].requests) <= 3
    only_once(small)


NO_PREFILL = b'{"error":{"message":"Lost connection with prefill instance (1.2.3.4)"}}'


@STREAMS
async def test_fault_09_decode_worker_that_blames_every_prefill_worker_ejects_none(sun: System, stream: bool) -> None:
    sun["base-0"].fault = Fault(status=500, body=NO_PREFILL)
    assert [await ask(sun, stream) for _ in range(6)] == [ANSWER] * 6
    assert sun["base-0"].requests
    assert not any(sun.metric("sun_ejections_total", worker=name) for name in sun.workers)
    assert {sun.router.registry.state(name) for name in sun.workers} == {"ready"}
    sun["base-0"].fault = None
    # its paths are proven again by canaries
    await sun.ready()
    await wait_until(lambda: len(sun.router.registry.usable("math")) == 4)


def refused_by_a_worker(message: str) -> dict[str, str | None]:
    return {"message": message, "type": "invalid_request_error", "param": None, "code": None}


@STREAMS
async def test_fault_03_the_prefill_workers_own_error_is_passed_on(small: System, stream: bool) -> None:
    small["math-0"].fault = Fault(status=422, body=b'{"error":{"message":"no such thing"}}')
    assert (await refuse(small, 422, stream))["error"] == refused_by_a_worker("no such thing")
    await aborted(small, "base-0")
    assert small.metric("sun_requests_total", task="math", outcome="refused") == 1
    assert small.router.registry.state("math-0") == "ready"


@STREAMS
async def test_fault_03_the_decode_workers_own_error_is_passed_on(small: System, stream: bool) -> None:
    small["base-0"].fault = Fault(status=400, body=b'{"error":{"message":"bad"}}')
    small["math-0"].fault = Fault(hang=True)
    assert (await refuse(small, 400, stream))["error"] == refused_by_a_worker("bad")
    await aborted(small, "math-0")


@STREAMS
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"abort": {"type": "abort", "message": "KV transfer failed", "status_code": 500}},
    ],
)
async def test_fault_04_other_ways_to_fail(sun: System, stream: bool, fault: dict[str, Any]) -> None:
    sun["math-0"].fault = Fault(**fault)
    assert [await ask(sun, stream) for _ in range(3)] == [ANSWER] * 3
    sun["math-1"].fault = Fault(**fault)
    reply = await refuse(sun, 502, stream)
    assert reply["error"]["code"] == "prefill_failed"


@STREAMS
@pytest.mark.parametrize("worker", ["math-0", "base-0"])
async def test_fault_04_an_abort_that_blames_the_request_is_its_status(
    small: System, stream: bool, worker: str
) -> None:
    small[worker].fault = Fault(abort={"type": "abort", "message": "too long", "status_code": 400})
    reply = await refuse(small, 400, stream)
    assert reply["error"]["message"] == "too long"


@STREAMS
async def test_fault_04_decode_reports_an_error_as_its_first_event(sun: System, stream: bool) -> None:
    for name in ("base-0", "base-1"):
        sun[name].fault = Fault(error_after=0) if stream else Fault(status=500)
    sun["base-1"].fault = None
    assert [await ask(sun, stream) for _ in range(2)] == [ANSWER] * 2


GARBAGE = [
    b"",
    b"hello",
    b"{}",
    b"[]",
    b'{"meta_info":[1],"x":"abort"}',
    b'{"choices":{"a":"abort"}}',
    b"\x00\xff",
    NO_PREFILL[10:],
]


@STREAMS
@pytest.mark.parametrize("logprobs", [{}, {"return_logprob": True, "logprob_start_len": 0}])
@pytest.mark.parametrize("garbage", GARBAGE)
async def test_fault_08_garbage_200_of_prefill_is_its_own_failure(
    sun: System, stream: bool, logprobs: dict[str, Any], garbage: bytes
) -> None:
    """Its decode worker waits for KV that does not arrive, and is not at fault."""
    sun["math-0"].fault = sun["math-1"].fault = Fault(status=200, body=garbage, times=1)
    assert await ask(sun, stream, **logprobs) == ANSWER
    assert sun.metric("sun_retries_total", task="math", leg="prefill") == 1
    tried = {body["rid"] for name in ("math-0", "math-1") for _, body in sun[name].requests}
    await wait_until(lambda: any(a["rid"] in tried for name in ("base-0", "base-1") for a in sun[name].aborts))
    sun["math-0"].fault = sun["math-1"].fault = Fault(status=200, body=garbage)
    assert (await refuse(sun, 502, stream, **logprobs))["error"]["code"] == "prefill_failed"
    assert not any(sun.metric("sun_ejections_total", worker=name) for name in sun.workers)


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_fault_08_garbage_200_of_decode_is_its_own_failure(sun: System, garbage: bytes) -> None:
    sun["base-0"].fault = sun["base-1"].fault = Fault(status=200, body=garbage, times=1)
    assert await ask(sun, stream=False) == ANSWER
    assert sun.metric("sun_retries_total", task="math", leg="decode") == 1
    sun["base-0"].fault = sun["base-1"].fault = Fault(status=200, body=garbage)
    assert (await refuse(sun, 502))["error"]["code"] == "decode_failed"
    assert not any(sun.metric("sun_ejections_total", worker=name) for name in sun.workers)


@pytest.mark.parametrize(("worker", "code"), [("math", "prefill_failed"), ("base", "decode_failed")])
async def test_fault_08_endless_answer_is_broken_off_and_not_retried(start: Start, worker: str, code: str) -> None:
    system: System = await start({"math": ("math", "base")}, {"math": 2, "base": 2}, router={"max_answer_mb": 1})
    endless = [system[f"{worker}-{i}"] for i in (0, 1)]
    for each in endless:
        each.fault = Fault(endless=True)
    error = (await refuse(system, 502))["error"]
    assert (error["code"], "router.max_answer_mb" in error["message"]) == (code, True)
    assert sorted(len(each.requests) for each in endless) == [0, 1]
    assert not any(system.metric("sun_ejections_total", worker=name) for name in system.workers)


@pytest.mark.invariant("I4")
async def test_fault_07_a_retry_has_a_new_rid_and_a_new_room(sun: System) -> None:
    sun["base-0"].fault = sun["base-1"].fault = Fault(status=500)
    await refuse(sun, 502)
    sent = [body for w in ("math-0", "math-1") for _, body in sun[w].requests]
    assert len({b["rid"] for b in sent}) == len({b["bootstrap_room"] for b in sent}) == len(sent) == 2


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_fault_08_decode_reports_an_error_mid_stream(small: System, path: str) -> None:
    small["base-0"].fault = Fault(error_after=2)
    events = await small.events_of(
        path,
        {**MATH, "prompt": "hi", "stream": True}
        if path == "/generate"
        else {"model": "math", "prompt": "hi", "stream": True},
    )
    assert len(events) == 3
    assert "error" in events[-1]
    assert events[-1]["error"]["message"]
    await small.quiet()
    assert small.metric("sun_requests_total", task="math", outcome="failed") == 1


async def test_fault_11_the_new_bootstrap_port_is_used(small: System) -> None:
    await small["math-0"].restart()
    await wait_until(lambda: small.router.registry.workers["math-0"].incarnation.endswith("-1"))
    await small.ready()
    assert await ask(small, stream=False) == ANSWER
    assert small["math-0"].requests[-1][1]["bootstrap_port"] == 9001
