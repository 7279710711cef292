"""Rows of the fault table as decisions: what is sent to whom, and every variant of a row, over fake workers.

Whole rows with their time bounds are in `tests/system/faults`, over processes that are killed and stopped.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.dispatch.attempt import Attempt
from tests.unit.router.conftest import PATIENCE_S, Start, System, set_deadlines
from tests.unit.router.fake_worker import FakeWorker, Fault, expected

IDS = [5, 6, 7]
MATH = {"model": "math", "input_ids": IDS, "sampling_params": {"max_new_tokens": 4}}
ANSWER = expected("w-math", "w-base", IDS, 4)
STREAMS = pytest.mark.parametrize("stream", [False, True])


async def ask(system: System, stream: bool, **more: Any) -> Any:
    """The token ids of an answer, streamed or not."""
    if not stream:
        status, reply = await system.post("/generate", {**MATH, **more})
        assert status == 200, reply
        return reply["output_ids"]
    events = await system.events_of("/generate", {**MATH, **more, "stream": True})
    assert events[-1] == "[DONE]"
    return events[-2]["output_ids"]


async def refuse(system: System, status: int, stream: bool = False, **more: Any) -> Any:
    got, reply = await system.post("/generate", {**MATH, **more, "stream": stream})
    assert got == status, reply
    await system.quiet()
    return reply


async def aborted(system: System, worker: str, which: int = -1) -> None:
    """The worker was told to abort a request that it got."""
    rid = system[worker].requests[which][1]["rid"]
    await wait_until(lambda: {"rid": rid} in system[worker].aborts)


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
    """Whatever fails, no worker sees an id or a room twice."""
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


def only_once(system: System) -> None:
    """No worker was given an id or a room twice."""
    for worker in system.workers.values():
        for names in zip(*worker.names, strict=True):
            assert len(set(names)) == len(names)
    by_role = {role: [w.names for w in system.workers.values() if w.role == role] for role in ("prefill", "decode")}
    for lists in by_role.values():
        sent = [names for each in lists for names in each]
        assert len({rid for rid, _ in sent}) == len({room for _, room in sent}) == len(sent)


@pytest.mark.invariant("I5")
@STREAMS
@pytest.mark.parametrize("death", ["die", "replaced"])
@pytest.mark.parametrize("pool", ["math", "base"])
async def test_fault_02_07_request_under_which_a_worker_died_goes_to_no_other(
    sun: System, stream: bool, death: str, pool: str
) -> None:
    """It would kill every worker that gets it; the supervisor may have started the next process already."""
    both = [sun[f"{pool}-{i}"] for i in (0, 1)]
    for worker in both:
        worker.fault = Fault(**{death: True})
    reply = await refuse(sun, 502, stream)
    assert reply["error"]["code"] == "worker_died"
    assert "send it again" in reply["error"]["message"]
    assert sorted(len(worker.requests) for worker in both) == [0, 1]
    for worker in both:
        worker.fault = None
    await wait_until(lambda: sun.router.registry.usable("math"))
    assert await ask(sun, stream) == ANSWER
    assert await ask(sun, stream, model="tool") == expected("w-tool", "w-base", IDS, 4)
    assert sun.metric("sun_retries_total", task="math", leg="prefill") == 0
    assert sun.metric("sun_retries_total", task="math", leg="decode") == 0
    only_once(sun)


NO_PREFILL = b'{"error":{"message":"Lost connection with prefill instance (1.2.3.4)"}}'


def having(system: System, pool: str) -> FakeWorker:
    """The worker of a pool that has the request."""
    (worker,) = [w for name, w in system.workers.items() if name.startswith(pool) and w.requests]
    return worker


@STREAMS
@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("says", ["prefill", "decode"])
async def test_fault_02_07_the_other_leg_reports_a_death(sun: System, stream: bool, dead: bool, says: str) -> None:
    """Only where the worker has died is the request kept from the others."""
    now = asyncio.Event()
    silent, reporting = ("base", "math") if says == "prefill" else ("math", "base")
    report = Fault(status=500, body=NO_PREFILL if says == "decode" else b"{}", wait=now, times=1)
    hang = Fault(hang=True, times=1)
    for i in (0, 1):
        sun[f"{reporting}-{i}"].fault, sun[f"{silent}-{i}"].fault = report, hang
    asked = asyncio.create_task(refuse(sun, 502, stream) if dead else ask(sun, stream))
    await wait_until(lambda: any(w.requests for n, w in sun.workers.items() if n.startswith("math")))
    await wait_until(lambda: any(w.requests for n, w in sun.workers.items() if n.startswith("base")))
    if dead:
        having(sun, silent).vanish()
    now.set()
    answered = await asked
    if dead:
        assert answered["error"]["code"] == "worker_died"
    else:
        assert answered == ANSWER
        assert sun.metric("sun_retries_total", task="math", leg="prefill") == 1
    assert sum(len(sun[f"{silent}-{i}"].requests) for i in (0, 1)) == (1 if dead else 2)
    only_once(sun)


@pytest.mark.parametrize("busy", ["reads", "answers", ""])
async def test_worker_that_reads_a_long_prompt_or_answers_others_and_shows_no_card_is_not_ejected(
    small: System, busy: str
) -> None:
    """Its silence says nothing: the request is not retried, and the other requests of the worker go on."""
    set_deadlines(small.router.dispatcher.client, liveness=0.01)
    small["math-0"].fault = Fault(status=500, times=1)
    small["base-0"].silent_cards = True
    worker = small.router.registry.workers["base-0"]
    if busy == "reads":
        worker.load._tokenizing_until = small.router.dispatcher.attempts.now() + PATIENCE_S
    elif busy:
        worker.note_progress(float("inf"))
    reply = await refuse(small, 502)
    assert reply["error"]["code"] == "worker_died"
    assert (worker.card is not None) == bool(busy)
    small["base-0"].silent_cards = False
    small["base-0"].go_on()


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


@STREAMS
async def test_fault_02_request_that_its_prefill_worker_had_finished_is_retried(sun: System, stream: bool) -> None:
    """The prefill worker dies afterwards, and of something else."""
    now = asyncio.Event()
    sun["base-0"].fault = sun["base-1"].fault = Fault(status=500, wait=now, times=1)
    asked = asyncio.create_task(ask(sun, stream))
    await wait_until(lambda: any(a.results["prefill"] for a in sun.router.dispatcher.attempts))
    having(sun, "math").vanish()
    now.set()
    assert await asked == ANSWER
    assert sun.metric("sun_retries_total", task="math", leg="decode") == 1


@STREAMS
async def test_fault_03_the_prefill_workers_own_error_is_passed_on(small: System, stream: bool) -> None:
    small["math-0"].fault = Fault(status=422, body=b'{"error":{"message":"no such thing"}}')
    assert await refuse(small, 422, stream) == {"error": {"message": "no such thing"}}
    await aborted(small, "base-0")
    assert small.metric("sun_requests_total", task="math", outcome="refused") == 1
    assert small.router.registry.state("math-0") == "ready"


@STREAMS
async def test_fault_03_the_decode_workers_own_error_is_passed_on(small: System, stream: bool) -> None:
    small["base-0"].fault = Fault(status=400, body=b'{"error":{"message":"bad"}}')
    small["math-0"].fault = Fault(hang=True)
    assert await refuse(small, 400, stream) == {"error": {"message": "bad"}}
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
    """Its decode worker waits for KV that does not come, and is not to blame."""
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


async def test_fault_05_a_canary_that_hangs_in_decode_ends(start: Start) -> None:
    system = await start({"math": ("math", "base")}, {"math": 1, "base": 1})
    system["base-0"].canary_fault = Fault(hang_after=1)
    set_deadlines(system.router.path_prover, canary=0.1)
    await system["base-0"].restart()
    await wait_until(lambda: "the decode worker did not answer" in system.log.getvalue())
    set_deadlines(system.router.path_prover, canary=PATIENCE_S)
    assert system.router.registry.state("base-0") == "registering"
    system["base-0"].canary_fault = None
    await system.ready()


async def test_a_canary_that_failed_is_tried_again_long_before_the_next_probe(start: Start) -> None:
    tasks = {"math": ("math", "base")}
    system = await start(tasks, {"math": 1, "base": 1}, router={"probe_interval": 600}, wait=False)
    system["base-0"].canary_fault = Fault(status=500, times=1)
    await system.ready()
    assert [e["event"] for e in system.events if "canary" in e["event"]] == ["canary_failed"]


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
    system = await start({"math": ("math", "base")}, {"math": 1, "base": 2}, router={"idle_timeout": 0.4})
    system["base-0"].fault = system["base-1"].fault = Fault(hang_after=1, times=1)
    reply = await refuse(system, 504)
    assert reply["error"]["code"] == "worker_stalled"
    assert "it has requests and ran no batch for 0.2 s" in system.log.getvalue()
    assert await ask(system, stream=False) == ANSWER
    assert sum(system.metric("sun_ejections_total", worker=name) for name in ("base-0", "base-1")) == 1


def waiting(system: System) -> Attempt | None:
    """The attempt whose answer is silent."""
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


async def ask_as(system: System, rid: str) -> tuple[int, Any]:
    return await system.post("/generate", {**MATH, "rid": rid})


async def test_fault_11_the_new_bootstrap_port_is_used(small: System) -> None:
    await small["math-0"].restart()
    await wait_until(lambda: small.router.registry.workers["math-0"].incarnation.endswith("-1"))
    await small.ready()
    assert await ask(small, stream=False) == ANSWER
    assert small["math-0"].requests[-1][1]["bootstrap_port"] == 9001


async def test_fault_12_a_request_in_flight_on_a_replaced_worker_ends_and_goes_to_no_other(sun: System) -> None:
    sun["base-0"].fault = sun["base-1"].fault = Fault(hang=True)
    asked = asyncio.create_task(sun.post("/generate", MATH))
    await wait_until(lambda: sun["base-0"].running or sun["base-1"].running)
    # a new process behind the same address, while the old connection stays open without a word
    having(sun, "base").restarts += 1
    status, reply = await asked
    assert (status, reply["error"]["code"]) == (502, "worker_died")
    assert sum(len(sun[name].requests) for name in ("base-0", "base-1")) == 1
    await sun.quiet()


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


async def test_fault_14_client_leaves_a_stream_of_several(small: System) -> None:
    small["base-0"].fault = Fault(hang_after=2)
    body = {"model": "math", "prompt": ["a", "b"], "n": 2, "stream": True}
    async with small.client.post("/v1/completions", json=body) as r:
        await r.content.readuntil(b"\n\n")
        r.close()
    await wait_until(lambda: len({a["rid"] for a in small["base-0"].aborts}) == 4)
    await small.quiet()


async def test_fault_15_a_reserved_field_that_is_null_is_dropped(small: System) -> None:
    assert await ask(small, stream=False, lora_path=None, bootstrap_host=None) == ANSWER
    assert "lora_path" not in small["base-0"].requests[0][1]


@pytest.mark.invariant("I9")
@pytest.mark.parametrize(
    "key", [{"extra_key": ""}, {"extra_key": "tool@w-tool"}, {"cache_salt": ""}, {"cache_salt": "s"}]
)
async def test_fault_16_a_clients_namespace_stays_within_its_task(small: System, key: dict[str, str]) -> None:
    assert await ask(small, stream=False, **key) == ANSWER
    assert await ask(small, stream=False, model="tool", **key) == expected("w-tool", "w-base", IDS, 4)
    for worker, own in (("math-0", "math@w-math"), ("tool-0", "tool@w-tool")):
        sent = small[worker].requests[-1][1]
        assert sent["extra_key"].startswith(own)
        assert "cache_salt" not in sent
    assert small["math-0"].requests[-1][1]["extra_key"] != small["tool-0"].requests[-1][1]["extra_key"]


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


@pytest.mark.invariant("I4")
async def test_fault_18_n_and_lists_become_requests_with_rooms_of_their_own(sun: System) -> None:
    body = {"model": "math", "prompt": ["ab", "c"], "n": 3, "max_tokens": 2}
    status, reply = await sun.post("/v1/completions", body)
    assert status == 200
    assert [c["index"] for c in reply["choices"]] == list(range(6))
    assert [c["text"] for c in reply["choices"][:3]] == [reply["choices"][0]["text"]] * 3
    assert reply["choices"][0]["text"] != reply["choices"][3]["text"]
    assert reply["usage"]["prompt_tokens"] == 3
    assert reply["usage"]["completion_tokens"] == 12
    sent = [b for w in ("math-0", "math-1") for _, b in sun[w].requests]
    assert len({b["bootstrap_room"] for b in sent}) == len({b["rid"] for b in sent}) == 6


async def test_fault_18_generate_lists(small: System) -> None:
    body = {
        "model": "math",
        "input_ids": [[1], [2, 3]],
        "sampling_params": [{"max_new_tokens": 2}, {"max_new_tokens": 3}],
    }
    _, reply = await small.post("/generate", {**body, "rid": ["x", "y"]})
    assert [r["output_ids"] for r in reply] == [
        expected("w-math", "w-base", [1], 2),
        expected("w-math", "w-base", [2, 3], 3),
    ]
    assert [r["meta_info"]["id"] for r in reply] == ["x", "y"]
    _, reply = await small.post("/generate", {"model": "math", "text": ["a"]})
    assert isinstance(reply, list)
    assert len(reply) == 1


@pytest.mark.parametrize("usage", [False, True])
async def test_fault_18_a_stream_of_several(sun: System, usage: bool) -> None:
    body = {"model": "math", "prompt": ["ab", "c"], "n": 2, "max_tokens": 3, "stream": True}
    events = await sun.events_of("/v1/completions", {**body, "stream_options": {"include_usage": usage}})
    assert events[-1] == "[DONE]"
    texts: dict[int, str] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    _, whole = await sun.post("/v1/completions", {**body, "stream": False})
    assert texts == {c["index"]: c["text"] for c in whole["choices"]}
    assert len({e["id"] for e in events[:-1]}) == 1
    usages = [e["usage"] for e in events[:-1] if not e["choices"]]
    assert [(u["prompt_tokens"], u["completion_tokens"]) for u in usages] == ([(3, 12)] if usage else [])
    await sun.quiet()


async def test_fault_18_a_generate_stream_of_several(small: System) -> None:
    events = await small.events_of("/generate", {"model": "math", "text": ["a", "b"], "stream": True})
    assert {e["index"] for e in events[:-1]} == {0, 1}
    assert events[-1] == "[DONE]"


async def test_fault_18_one_of_several_fails(sun: System) -> None:
    for name in ("base-0", "base-1"):
        sun[name].fault = Fault(status=500)
    body = {"model": "math", "prompt": ["ab", "c"]}
    assert (await sun.post("/v1/completions", body))[0] == 502
    assert (await sun.post("/v1/completions", {**body, "stream": True}))[0] == 502
    for name in ("base-0", "base-1"):
        sun[name].fault = Fault(die_after=1)
    events = await sun.events_of("/v1/completions", {**body, "stream": True})
    assert "error" in events[-1]
    await sun.quiet()


async def test_fault_19_text_is_tokenized_only_where_it_may_be_too_long(small: System) -> None:
    status, _ = await small.post("/generate", {"model": "math", "text": "x" * 990})
    assert status == 200
    assert not small["math-0"].counted
    status, _ = await small.post("/generate", {"model": "math", "text": "longword " * 900})
    assert status == 200
    assert len(small["math-0"].counted) == 1
    assert (await small.post("/generate", {"model": "math", "input_ids": [1] * 1000}))[0] == 200


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"Content-Length: 9\r\nContent-Encoding: gzip\r\n", b"not gzip!", b" 415 "),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n", b" 400 "),
    ],
)
async def test_fault_20_a_body_that_cannot_be_read(small: System, head: bytes, body: bytes, status: bytes) -> None:
    url = aiohttp.typedefs.URL(small.router.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head + b"\r\n" + body)
    assert status in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert await ask(small, stream=False) == ANSWER
    assert "defect" not in small.log.getvalue()


async def test_fault_20_other_refusals(small: System, start: Start) -> None:
    chat = {"model": "math", "messages": [{"role": "user", "content": "x"}], "logprobs": True}
    assert (await small.post("/v1/chat/completions", {**chat, "top_logprobs": 129}))[0] == 400
    assert (await small.post("/v1/completions", {"model": "math", "prompt": "x", "logprobs": 129}))[0] == 400
    # found by the fuzzer: a worker fails on it
    assert (await small.post("/v1/completions", {"model": "math", "prompt": "x", "logprobs": []}))[0] == 400
    async with small.client.post("/generate", data=b"x=1") as r:
        assert r.status == 400
    status, reply = await small.post("/generate", {"model": "nope", "text": "x"})
    assert status == 404
    assert "math, tool" in reply["error"]["message"]
    assert (await small.post("/generate", {"text": "x"}))[0] == 400
    tiny = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router={"max_body_mb": 0.001})
    status, reply = await tiny.post("/generate", {"model": "math", "text": "x" * 2000})
    assert status == 413
    assert "0.001 MiB" in reply["error"]["message"]
    assert not small["math-0"].requests


async def test_fault_21_members_of_a_pool_need_the_same_weights(start: Start) -> None:
    cards = {"math-1": {"identity": {"weights": "other"}}}
    system = await start({"math": ("math", "base")}, {"math": 2, "base": 1}, cards=cards, wait=False)
    await wait_until(lambda: any("weights differs" in w.reason for w in system.router.registry.workers.values()))
    await system.ready()
    assert len(system.router.registry.usable("math")) == 1


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


@pytest.mark.invariant("I12")
@pytest.mark.parametrize("state", ["missing", "moved", "inactive"])
async def test_fault_28_a_hook_that_did_not_take(start: Start, state: str) -> None:
    hook = {"name": "prompt-only-cache", "target": "a.b.c", "state": state, "detail": "no such method"}
    system = await start(
        {"math": ("math", "base")}, {"math": 1, "base": 1}, cards={"base-0": {"patches": [hook]}}, wait=False
    )
    await wait_until(lambda: system.router.registry.state("base-0") == "refused")
    reason = system.router.registry.workers["base-0"].reason
    assert reason == f"hook `prompt-only-cache` on a.b.c is {state}: no such method"
    assert (await system.post("/generate", MATH))[0] == 503
    _, tasks = await system.get("/tasks")
    assert tasks["tasks"]["math"]["decode"]["workers"][0]["reason"] == reason
    assert not system["base-0"].canaries


async def test_a_slow_client_is_no_idle_stream(start: Start) -> None:
    system = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router={"idle_timeout": 60.0})
    async with aiohttp.ClientSession(base_url=system.router.url) as client:
        body = {"model": "math", "prompt": "hi", "stream": True, "max_tokens": 500}
        async with client.post("/v1/completions", json=body) as r:
            first = await r.content.readuntil(b"\n\n")
            assert first
            rest = await r.read()
    assert rest.endswith(b"data: [DONE]\n\n")
