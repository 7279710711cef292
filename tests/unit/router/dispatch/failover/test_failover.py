"""A stream goes on with another decode worker when its own is lost, and its client notices a pause alone."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.first_token import read_mark
from sun_sglang.contracts.replay import read_replay
from tests.unit.router.conftest import PATIENCE_S, Start, System, set_deadlines
from tests.unit.router.dispatch.failover.answers import (
    CASES,
    CHAT,
    GENERATE,
    TASKS,
    TEXT,
    begin,
    break_one,
    decoders,
    hang,
    raw,
    repair,
    shown,
)
from tests.unit.router.fake_worker import HOOK, SPLIT, FakeWorker, Fault, expected
from tests.unit.router.math_requests import only_once

WHOLE = expected("w-math", "w-base", [5, 6, 7], 6)


def having(system: System) -> FakeWorker:
    """Return the decode worker that has the request."""
    (worker,) = [worker for worker in decoders(system) if worker.running]
    return worker


def tokens_sent(system: System, role: str = "decode") -> list[list[int] | None]:
    """Return the tokens that each leg asked to repeat, in the order of the legs; None for a leg without the mark."""
    legs = [
        (body["rid"], read_replay(body["extra_key"]).tokens)
        for worker in system.workers.values()
        if worker.role == role
        for _, body in worker.requests
    ]
    return [None if tokens is None else list(tokens) for _, tokens in legs]


def error_of(stream: bytes) -> dict[str, Any]:
    last = stream.rstrip().rsplit(b"\n\n", 1)[-1]
    error: dict[str, Any] = orjson.loads(last.removeprefix(b"data: "))["error"]
    return error


@pytest.mark.invariant("I25")
async def test_stream_of_every_endpoint_equals_its_unbroken_run(start: Start) -> None:
    """The second worker divides the tokens into other events than the first."""
    system = await begin(start)
    one, other = decoders(system)
    for name, (path, body) in CASES.items():
        for after in (2, 4):
            one.step, other.step = 1, 1
            # each run finds the prompt in the cache as little as the first one
            system["math-0"].cache.clear()
            reference = shown(await raw(system, path, body))
            system["math-0"].cache.clear()
            before = system.metric("sun_replays_total", task="math", reason="broken")
            break_one(system, Fault(die_after=after, times=1))
            one.step, other.step = (1, 2) if after == 2 else (4, 2)
            lost = asyncio.create_task(raw(system, path, body))
            got = shown(await lost)
            assert got == reference, (name, after)
            reasons = ("broken", "gone")
            replays = sum(system.metric("sun_replays_total", task="math", reason=reason) for reason in reasons)
            assert replays > before, (name, after)
            await repair(system)
    await system.quiet()
    only_once(system)


@pytest.mark.invariant("I25")
async def test_second_worker_is_forced_through_the_tokens_that_were_shown(start: Start) -> None:
    """A request that samples draws other tokens in each run, so only forced ones are equal."""
    system = await begin(start)
    break_one(system, Fault(die_after=3, times=1))
    stream = await raw(system, "/generate", {**GENERATE, "sampling_params": {"max_new_tokens": 6, "temperature": 1}})
    events = [orjson.loads(block.removeprefix(b"data: ")) for block in stream.split(b"\n\n")[:-2]]
    assert [len(event["output_ids"]) for event in events] == [1, 2, 3, 4, 5, 6]
    for earlier, later in itertools.pairwise(events):
        assert later["output_ids"][:-1] == earlier["output_ids"]
    assert sorted(tokens_sent(system), key=len) == [[], events[2]["output_ids"]]
    assert tokens_sent(system, "prefill") == [None, events[0]["output_ids"]]


@pytest.mark.invariant("I25")
@pytest.mark.parametrize(("path", "body"), [("/generate", GENERATE), ("/v1/chat/completions", CHAT)])
async def test_worker_that_repeats_another_answer_ends_the_stream_with_an_error(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    system = await begin(start)
    break_one(system, Fault(die_after=3, times=1))
    for worker in decoders(system):
        worker.ignores_tokens = True
    sampling = {"temperature": 1, "sampling_params": {"max_new_tokens": 6, "temperature": 1}}
    stream = await raw(system, path, body | {k: v for k, v in sampling.items() if (k in body) or path != "/generate"})
    error = error_of(stream)
    assert error["code"] == "replay_differs"
    assert "other tokens" in error["message"]
    await system.quiet()


async def test_answer_survives_as_many_losses_as_the_router_allows(start: Start) -> None:
    system = await begin(start, 4, router={"failover_attempts": 2})
    break_one(system, Fault(die_after=2, times=2))
    assert shown(await raw(system, "/v1/completions", TEXT))[0]["finish"] == ["length"]
    await repair(system)
    break_one(system, Fault(die_after=2, times=3))
    error = error_of(await raw(system, "/v1/completions", TEXT))
    assert (error["code"], "router.failover_attempts" in error["message"]) == ("stream_broken", True)


async def test_task_without_failover_ends_with_an_error_and_sends_no_mark(start: Start) -> None:
    system = await begin(start, failover=False)
    break_one(system, Fault(die_after=2, times=1))
    error = error_of(await raw(system, "/generate", GENERATE))
    assert error["code"] == "stream_broken"
    assert tokens_sent(system) == [None]


async def test_answer_over_the_bound_ends_with_an_error_that_names_the_setting(start: Start) -> None:
    system = await begin(start, router={"failover_tokens": 2})
    break_one(system, Fault(die_after=2, times=1))
    assert shown(await raw(system, "/generate", GENERATE))[0]["last"]["output_ids"] == WHOLE
    await repair(system)
    break_one(system, Fault(die_after=3, times=1))
    error = error_of(await raw(system, "/generate", GENERATE))
    assert (error["code"], "router.failover_tokens" in error["message"]) == ("stream_broken", True)


OLD = {"patches": [HOOK.model_dump(), SPLIT.model_dump()]}


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        ({"base-1": {"identity": {"weights": "others"}}}, "compute another answer"),
        ({"base-1": OLD}, "cannot repeat the begun one"),
        ({"base-0": OLD, "base-1": OLD}, "broke off"),
    ],
    ids=["weights", "old second", "both old"],
)
async def test_answer_ends_with_an_error_where_no_other_worker_can_go_on(
    start: Start, cards: dict[str, dict[str, Any]], why: str
) -> None:
    system = await begin(start, cards=cards, router={"policy": {"decode": "round_robin"}})
    # the first worker takes the request: the other one was selected last
    system.router.registry.pick(system.router.registry.workers["base-1"])
    system["base-0"].fault = Fault(die_after=2)
    error = error_of(await raw(system, "/generate", GENERATE))
    assert (error["code"], why in error["message"]) == ("stream_broken", True), error
    assert not system["base-1"].requests
    await system.quiet()


async def test_single_decode_worker_ends_its_stream_with_an_error(start: Start) -> None:
    system = await begin(start, 1)
    break_one(system, Fault(die_after=2))
    assert "no worker can serve" in error_of(await raw(system, "/generate", GENERATE))["message"]


async def test_only_the_router_makes_the_mark(start: Start) -> None:
    system = await begin(start)
    key = "@tokens:BwAAAA==@"
    assert shown(await raw(system, "/generate", {**GENERATE, "extra_key": key}))[0]["last"]["output_ids"] == WHOLE
    status, reply = await system.post("/generate", {**GENERATE, "extra_key": key})
    assert (status, reply["output_ids"]) == (200, WHOLE)
    assert sorted(tokens_sent(system), key=str) == [None, []] or tokens_sent(system) == [[], None]
    assert tokens_sent(system, "prefill") == [None, None]


async def test_pair_whose_decode_module_makes_the_first_token_marks_the_decode_leg_alone(start: Start) -> None:
    system = await begin(start, cards={f"base-{i}": {"first_token": "decode"} for i in (0, 1)})
    break_one(system, Fault(die_after=3, times=1))
    reference = expected("w-math", "w-base", [5, 6, 7], 6, first_token="decode")
    assert shown(await raw(system, "/generate", GENERATE))[0]["last"]["output_ids"] == reference
    assert sorted(tokens_sent(system), key=len) == [[], reference[:3]]
    marks = [read_mark(body["extra_key"]) for _, body in system["math-0"].requests]
    assert tokens_sent(system, "prefill") == [None, None]
    assert all(mark.decode_first for mark in marks)


@pytest.mark.parametrize("how", ["stall", "replaced"])
async def test_stream_of_a_worker_that_hangs_goes_on(start: Start, how: str) -> None:
    system = await begin(start, router={"idle_timeout": 0.2} if how == "stall" else {})
    break_one(system, Fault(hang_after=2, times=1))
    asked = asyncio.create_task(raw(system, "/v1/chat/completions", CHAT))
    if how == "replaced":
        await wait_until(lambda: any(worker.stepped.is_set() and worker.running for worker in decoders(system)))
        # another process behind the same address, while the old connection stays open and silent
        having(system).restarts += 1
    assert shown(await asked)[0]["finish"] == ["length"]
    assert system.metric("sun_replays_total", task="math", reason="stalled" if how == "stall" else "gone") == 1
    assert system.metric("sun_replay_silence_seconds_count", task="math") == 1


async def test_answer_that_is_silent_alone_ends_as_without_failover(start: Start) -> None:
    limits = {"idle_timeout": 0.2, "answer_timeout": 0.3}
    system = await begin(start, router=limits)
    for worker in decoders(system):
        worker.batches = True
    break_one(system, Fault(hang_after=2, times=1))
    assert "no token for 0.3 s" in error_of(await raw(system, "/generate", GENERATE))["message"]
    assert system.metric("sun_replays_total", task="math", reason="stalled") == 0


@pytest.mark.parametrize("fault", [Fault(hang_after=1, die_after=None), Fault(die=True)], ids=["stalled", "died"])
async def test_unstreamed_answer_is_sent_again(start: Start, fault: Fault) -> None:
    system = await begin(start, router={"idle_timeout": 0.4})
    fault.times = 1
    break_one(system, fault)
    status, reply = await system.post("/generate", GENERATE)
    assert (status, reply["output_ids"]) == (200, WHOLE)
    assert tokens_sent(system) == [None, None]
    reason = "gone" if fault.die else "stalled"
    assert system.metric("sun_replays_total", task="math", reason=reason) == 1
    assert system.metric("sun_retries_total", task="math", leg="decode") == 0
    only_once(system)


@pytest.mark.parametrize(("path", "body"), [("/generate", GENERATE), ("/v1/completions", TEXT)])
@pytest.mark.parametrize("where", ["no pair", "repeats"])
async def test_abort_in_the_silence_ends_the_answer_as_aborted(
    start: Start, path: str, body: dict[str, Any], where: str
) -> None:
    system = await begin(start)
    worker, asked = await hang(system, path, {**body, "rid": "mine"})
    (other,) = [each for each in decoders(system) if each is not worker]
    other.fault = Fault(wait=asyncio.Event(), hang_after=0)
    if where == "no pair":
        set_deadlines(system.router.dispatcher.recovery, recovery=PATIENCE_S)
        await other.stop()
        await wait_until(lambda: len(system.router.registry.usable("math")) == 1)
    worker.kill()
    await wait_until(lambda: [ticket for ticket in system.router.in_flight.tickets if ticket.replays])
    if where == "repeats":
        await wait_until(lambda: other.running)
    await system.post("/abort_request", {"rid": "mine"})
    if where == "repeats":
        assert other.fault.wait is not None
        other.fault.wait.set()
    else:
        await worker.restart()
    answer = shown(await asked)[0]
    if path == "/generate":
        reason = answer["last"]["meta_info"]["finish_reason"]
        assert (answer["last"]["output_ids"], reason["type"]) == (WHOLE[:3], "abort")
    else:
        assert answer["finish"] == ["abort"]
    await system.quiet()
    assert system.metric("sun_requests_total", task="math", outcome="aborted") == 1


async def test_client_that_leaves_in_the_silence_ends_the_request(start: Start) -> None:
    system = await begin(start)
    worker, asked = await hang(system, "/generate", GENERATE)
    (other,) = [each for each in decoders(system) if each is not worker]
    other.fault = Fault(hang=True)
    worker.kill()
    await wait_until(lambda: other.running)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await system.quiet()
    assert system.metric("sun_requests_total", task="math", outcome="disconnected") == 1


async def test_answer_keeps_its_slot_until_it_has_gone_on_to_its_end(start: Start) -> None:
    system = await begin(start, router={"max_requests": 1})
    worker, asked = await hang(system, "/generate", GENERATE)
    (other,) = [each for each in decoders(system) if each is not worker]
    other.fault = Fault(wait=asyncio.Event())
    worker.kill()
    await wait_until(lambda: other.running)
    second = asyncio.create_task(system.post("/generate", GENERATE))
    await wait_until(lambda: system.router.in_flight.requests["math"] == 2)
    assert (len(other.requests), system.metric("sun_queued", task="math")) == (1, 1)
    assert other.fault.wait is not None
    other.fault.wait.set()
    assert shown(await asked)[0]["last"]["output_ids"] == WHOLE
    assert (await second)[1]["output_ids"] == WHOLE


async def test_replay_goes_to_the_prefill_worker_that_has_the_prompt(start: Start) -> None:
    system: System = await start(TASKS, {"math": 4, "base": 2})
    break_one(system, Fault(die_after=3, times=1))
    await raw(system, "/generate", GENERATE)
    assert sorted(len(system[f"math-{i}"].requests) for i in range(4)) == [0, 0, 0, 2]


async def test_replay_is_logged(start: Start) -> None:
    # no probe finds the death before the stream does
    system = await begin(start, router={"log_requests": True, "probe_interval": PATIENCE_S})
    break_one(system, Fault(die_after=3, times=1))
    await raw(system, "/generate", GENERATE)
    await system.quiet()
    (replay,) = [event for event in system.events if event["event"] == "replay"]
    assert (replay["why"], replay["tokens"]) == ("broken", 3)
    (request,) = [event for event in system.events if event["event"] == "request"]
    assert (request["replays"], len(request["workers"]), request["outcome"]) == (1, 2, "ok")
    assert system.metric("sun_replayed_tokens_total", task="math") == 3
