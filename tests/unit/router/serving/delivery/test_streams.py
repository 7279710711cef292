"""Streams whose events are not what they should be, or whose reader or task ends early: each has an explicit end."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.emulator.protocol.replies import sse_event as sse
from sun_sglang.router.serving.delivery.merged_stream import MergedStream
from tests.unit.router.conftest import System
from tests.unit.router.fake_worker import FakeWorker, Fault

DONE = b"data: [DONE]\n\n"
TRICKY = ["data: ", "data: [DONE]", 'data: {"error":{}}\n\n', "[DONE]", '"abort"', "error", "abort"]


def generated(text: str, made: int, finish: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"text": text, "meta_info": {"prompt_tokens": 1, "completion_tokens": made, "finish_reason": finish}}


def completed(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"id": "x", "model": "math", "choices": [{"index": 0, "text": text, "finish_reason": finish}], "usage": None}


def results(path: str, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if path == "/generate":
        return generated(text, 1), generated(text * 2, 2, {"type": "length", "length": 2})
    return completed(text), completed(text, "length")


def asking(path: str, answers: int) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "math", "stream": True}
    if path == "/generate":
        return body | {"text": "hi", "sampling_params": {"n": answers}}
    return body | {"prompt": "hi", "n": answers}


def broken(*_: object) -> None:
    raise ArithmeticError("made to fail")


async def aborted_on_both(system: System, answers: int) -> None:
    """Wait until both legs of every answer are aborted, and nothing is left of them."""
    for name in ("math-0", "base-0"):
        await wait_until(partial(_all_aborted, system[name], answers))
    await system.quiet()


def _all_aborted(worker: FakeWorker, answers: int) -> bool:
    return len({abort["rid"] for abort in worker.aborts}) == answers


BOTH = pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
ANSWERS = pytest.mark.parametrize("answers", [1, 2])


@BOTH
@ANSWERS
@pytest.mark.parametrize("text", TRICKY)
async def test_a_stream_whose_text_reads_like_events_arrives_whole(
    small: System, path: str, answers: int, text: str
) -> None:
    first, last = results(path, text)
    # an event that comes in pieces is taken apart, and one that comes whole is not
    small["base-0"].fault = Fault(writes=(sse(first)[:30], sse(first)[30:], sse(last), DONE))
    events = await small.events_of(path, asking(path, answers))
    assert events[-1] == "[DONE]"
    for index in range(answers):
        mine = [e for e in events[:-1] if (e.get("choices") or [e])[0].get("index", 0) == index]
        texts = [e["choices"][0]["text"] if "choices" in e else e["text"] for e in mine]
        assert texts == [text, text * 2 if path == "/generate" else text]
    await small.quiet()
    assert small.metric("sun_requests_total", task="math", outcome="ok") == 1
    if path == "/generate":
        assert small.metric("sun_tokens_total", task="math", kind="completion") == 2 * answers


@ANSWERS
async def test_a_stream_with_other_line_ends_and_comments_is_read(small: System, answers: int) -> None:
    first, last = (b"data:" + orjson.dumps(result) + b"\r\n\r\n" for result in results("/generate", "a"))
    small["base-0"].fault = Fault(writes=(first[:-1], first[-1:], b": ping\r\n\r\n" + last, b"data: [DONE]\r\n\r\n"))
    async with small.client.post("/generate", json=asking("/generate", answers)) as reply:
        raw = await reply.read()
    assert raw.count(b'"text":"aa"') == answers
    assert raw.endswith(DONE)
    await small.quiet()
    assert small.metric("sun_requests_total", task="math", outcome="ok") == 1


BAD = {
    "no JSON": b"data: <html>\n\n",
    "no JSON in braces": b'data: {"error"}\n\n',
    "a list": b"data: [1]\n\n",
    "choices of a wrong type": b'data: {"choices":"abort","usage":null,"error":null}\n\n',
    "choices that are no objects": b'data: {"choices":[1],"finish":"abort"}\n\n',
    "a meta_info of a wrong type": b'data: {"meta_info":"abort"}\n\n',
    "a usage of a wrong type": b'data: {"choices":[],"usage":7}\n\n',
}


@BOTH
@ANSWERS
@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_event_ends_the_stream_with_an_error(small: System, path: str, answers: int, bad: str) -> None:
    small["math-0"].fault = Fault(hang=True)
    small["base-0"].fault = Fault(writes=(sse(results(path, "a")[0]), BAD[bad]), hang_after=1)
    events = await small.events_of(path, asking(path, answers))
    assert "decode worker sent" in events[-1]["error"]["message"]
    await aborted_on_both(small, answers)
    assert small.metric("sun_requests_total", task="math", outcome="failed") == 1
    assert "defect" not in {event["event"] for event in small.events}


@ANSWERS
@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_first_event_is_a_502(small: System, answers: int, bad: str) -> None:
    small["math-0"].fault = Fault(hang=True)
    small["base-0"].fault = Fault(writes=(BAD[bad],), hang_after=1)
    status, reply = await small.post("/v1/completions", asking("/v1/completions", answers))
    assert status == 502
    assert "decode worker" in reply["error"]["message"]
    await small.quiet()


@pytest.mark.parametrize("event", [{"text": "a"}, {"meta_info": None, "choices": None}])
async def test_an_event_without_a_result_ends_a_stream_of_several(small: System, event: dict[str, Any]) -> None:
    small["base-0"].fault = Fault(writes=(sse(completed("a")), sse(event)), hang_after=1)
    events = await small.events_of("/v1/completions", asking("/v1/completions", 2))
    assert "choices" in events[-1]["error"]["message"]
    await small.quiet()


@ANSWERS
async def test_a_first_event_without_an_end_is_a_502(
    small: System, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    monkeypatch.setattr("sun_sglang.router.protocol.sse.MAX_EVENT_BYTES", 1 << 16)
    small["base-0"].fault = Fault(writes=(b'data: {"text":"' + b"x" * (1 << 17),), hang_after=1)
    status, reply = await small.post("/generate", asking("/generate", answers))
    assert status == 502
    assert "an event of over 65536 bytes" in reply["error"]["message"]
    await small.quiet()


@pytest.mark.invariant("I6")
@ANSWERS
async def test_an_event_without_an_end_ends_the_stream(
    small: System, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    monkeypatch.setattr("sun_sglang.router.protocol.sse.MAX_EVENT_BYTES", 1 << 16)
    endless = b'data: {"text":"' + b"x" * (1 << 17)
    small["base-0"].fault = Fault(writes=(sse(results("/generate", "a")[0]), endless), hang_after=1)
    events = await small.events_of("/generate", asking("/generate", answers))
    assert "an event of over 65536 bytes" in events[-1]["error"]["message"]
    await small.quiet()


async def test_answers_without_an_event_end_their_stream(small: System) -> None:
    small["base-0"].fault = Fault(writes=(DONE,))
    assert await small.events_of("/generate", asking("/generate", 2)) == ["[DONE]"]


@ANSWERS
async def test_a_defect_in_a_streams_task_is_an_error_event(
    small: System, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    """For any exception in a task, the client receives an error, both legs are aborted, and the log has the cause."""
    small["math-0"].fault = Fault(hang=True)
    small["base-0"].fault = Fault(writes=(sse(generated("a", 1)),), hang_after=1)
    monkeypatch.setattr("sun_sglang.router.dispatch.pair_response.PairResponse.read", broken)
    events = await small.events_of("/generate", asking("/generate", answers))
    assert "meta_info" in events[0]
    assert events[-1]["error"]["code"] == "internal_error"
    await aborted_on_both(small, answers)
    assert small.metric("sun_requests_total", task="math", outcome="failed") == 1
    assert "made to fail" in next(event["trace"] for event in small.events if event["event"] == "defect")


async def test_a_defect_in_the_reader_of_several_streams_is_an_error_event(
    small: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sun_sglang.router.serving.delivery.merged_stream.merge_usage", broken)
    monkeypatch.setattr(MergedStream, "tokens", broken)
    events = await small.events_of("/v1/completions", asking("/v1/completions", 2))
    assert events[-1]["error"]["code"] == "internal_error"
    await small.quiet()


async def test_one_of_several_that_fails_before_any_began_is_a_status(small: System) -> None:
    small["math-0"].fault = Fault(hang=True)
    small["base-0"].fault = Fault(status=400, times=1)
    status, _ = await small.post("/v1/completions", asking("/v1/completions", 3))
    assert status == 400
    await wait_until(lambda: len({a["rid"] for a in small["math-0"].aborts}) == 3)
    # the leg that answered has nothing left to abort
    await wait_until(lambda: len({a["rid"] for a in small["base-0"].aborts}) == 2)
    await small.quiet()


async def test_one_of_several_that_fails_later_ends_all_with_its_error(small: System) -> None:
    small["math-0"].fault = Fault(hang=True)
    error = {"error": {"message": "made to fail", "code": 500}}
    small["base-0"].fault = Fault(writes=(sse(completed("a")), sse(error)), hang_after=1)
    events = await small.events_of("/v1/completions", asking("/v1/completions", 3))
    message = "the answer broke off: the decode worker failed: made to fail"
    shown = {"message": message, "type": "server_error", "param": None, "code": "stream_broken"}
    assert events[-1] == {"error": shown}
    await aborted_on_both(small, 3)


@pytest.mark.invariant("I1")
async def test_a_client_that_leaves_several_answers_ends_all_on_both_workers(small: System) -> None:
    small["math-0"].fault = Fault(hang=True)
    small["base-0"].fault = Fault(writes=(sse(completed("a")),), hang_after=1)
    async with small.client.post("/v1/completions", json=asking("/v1/completions", 4)) as reply:
        await reply.content.readuntil(b"\n\n")
        reply.close()
    await aborted_on_both(small, 4)
    assert small.metric("sun_requests_total", task="math", outcome="disconnected") == 1


@pytest.mark.invariant("I3")
async def test_a_prefill_reply_without_logprobs_ends_the_stream_and_lets_both_legs_go(small: System) -> None:
    """The prefill worker's 200 holds none of the requested logprobs."""
    small["math-0"].fault = Fault(status=200, body=b'{"id":"RID","meta_info":3}')
    small["base-0"].fault = Fault(writes=(sse(generated("a", 1)),), hang_after=1)
    body = asking("/generate", 1) | {"return_logprob": True, "logprob_start_len": 0}
    status, reply = await small.post("/generate", body)
    assert (status, reply["error"]["code"]) == (502, "prefill_failed")
    await small.quiet()
    small["base-0"].fault = Fault(status=200, body=orjson.dumps(generated("a", 1) | {"id": "RID"}))
    status, reply = await small.post("/generate", body | {"stream": False})
    assert (status, reply["error"]["code"]) == (502, "prefill_failed")
    await small.quiet()


WRONG = [
    b'["RID"]',
    b'{"id":"RID"}',
    b'{"id":"RID","choices":"x"}',
    b'{"id":"RID","choices":[1]}',
    b'{"id":"RID","choices":[],"usage":3}',
    b'{"id":"RID","choices":null}',
]


@ANSWERS
@pytest.mark.parametrize("body", WRONG)
async def test_a_whole_answer_of_another_shape_is_a_502(small: System, answers: int, body: bytes) -> None:
    small["base-0"].fault = Fault(status=200, body=body)
    status, reply = await small.post("/v1/completions", {"model": "math", "prompt": "hi", "n": answers})
    assert (status, reply["error"]["code"]) == (502, "decode_failed")
    assert "decode worker" in reply["error"]["message"]
    await small.quiet()


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_details_of_several_answers_are_summed_however_they_are_sent(small: System, stream: bool) -> None:
    usage = {
        "prompt_tokens": 2,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    answer = completed("a", "length") | {"id": "RID", "usage": usage}
    body = {"model": "math", "prompt": ["hi", "ho"], "n": 2}
    if stream:
        small["base-0"].fault = Fault(writes=(sse(completed("a")), sse(answer | {"choices": []}), DONE))
        asked = body | {"stream": True, "stream_options": {"include_usage": True}}
        *_, last, end = await small.events_of("/v1/completions", asked)
        assert end == "[DONE]"
        found = last["usage"]
    else:
        small["base-0"].fault = Fault(status=200, body=orjson.dumps(answer))
        status, reply = await small.post("/v1/completions", body)
        assert status == 200
        found = reply["usage"]
    assert (found["prompt_tokens"], found["completion_tokens"]) == (4, 20)
    assert found["prompt_tokens_details"] == {"cached_tokens": 2}
    assert found["completion_tokens_details"] == {"reasoning_tokens": 12}
    await small.quiet()


async def test_usage_of_another_shape_counts_as_none(small: System) -> None:
    usage = {"prompt_tokens": "x", "completion_tokens": [], "reasoning_tokens": {}, "prompt_tokens_details": "abc"}
    answer = completed("a", "length") | {"id": "RID", "usage": usage}
    small["base-0"].fault = Fault(status=200, body=orjson.dumps(answer))
    status, reply = await small.post("/v1/completions", {"model": "math", "prompt": "hi", "n": 2})
    assert status == 200
    assert reply["usage"]["total_tokens"] == 0
    small["base-0"].fault = Fault(writes=(sse(completed("a")), sse(answer | {"choices": []}), DONE))
    events = await small.events_of("/v1/completions", asking("/v1/completions", 2))
    assert events[-1] == "[DONE]"
    await small.quiet()


@pytest.mark.parametrize("stream", [True, False])
async def test_answer_with_counts_that_are_none_is_delivered_and_counts_nothing(small: System, stream: bool) -> None:
    meta = {"prompt_tokens": -5, "completion_tokens": -3, "cached_tokens": 1 << 62, "finish_reason": {"type": "length"}}
    result = {"text": "a", "meta_info": meta}
    if stream:
        small["base-0"].fault = Fault(writes=(sse(result), b"data: [DONE]\n\n"))
        assert await small.events_of("/generate", {"text": "x", "model": "math", "stream": True}) == [result, "[DONE]"]
    else:
        small["base-0"].fault = Fault(status=200, body=orjson.dumps(result | {"id": "RID"}))
        status, answer = await small.post("/generate", {"text": "x", "model": "math"})
        assert (status, answer["text"]) == (200, "a")
    await small.quiet()
    assert small.metric("sun_requests_total", task="math", outcome="ok") == 1
    for kind in ("prompt", "completion", "cached"):
        assert not small.metric("sun_tokens_total", task="math", kind=kind)
    assert not [e for e in small.events if e["event"] == "defect"]


async def test_answer_with_a_count_that_no_worker_can_make_prices_no_later_answer(small: System) -> None:
    """One report of 2^40 tokens outweighed the thousand answers after it."""
    body = {"id": "RID", "text": "a", "meta_info": {"completion_tokens": 1 << 40, "finish_reason": {"type": "stop"}}}
    small["base-0"].fault = Fault(status=200, body=orjson.dumps(body))
    assert (await small.post("/generate", {"text": "x", "model": "math"}))[0] == 200
    assert small.router.service._estimate.expected("math") == small["base-0"].card["max_input_tokens"] + 1
