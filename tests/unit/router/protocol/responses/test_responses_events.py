"""Streamed and whole responses, as transcripts; every event is validated against the openai package's types."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from sun_sglang.router.protocol.responses.request import ResponseTranslation
from sun_sglang.router.protocol.translation import interface
from tests.unit.router.protocol.transcripts import ROLE, call, delta, finish, play, usage, whole

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}


def translation(**fields: Any) -> ResponseTranslation:
    return ResponseTranslation(orjson.dumps({"model": "math", "input": "hi", **fields}))


def streamed(chunks: list[dict[str, Any]], last: bytes = b"data: [DONE]\n\n", **fields: Any) -> list[dict[str, Any]]:
    events = play(translation(**fields).writer(), chunks, last)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event, strict=True)
    return events


def lines(events: list[dict[str, Any]]) -> list[str]:
    names = ("delta", "text", "arguments")
    return [
        " ".join([event["type"].removeprefix("response."), *(str(event[name]) for name in names if name in event)])
        for event in events
    ]


def test_text_streamed_yields_the_events_of_one_message() -> None:
    events = streamed([delta(**ROLE), delta(content="4"), delta(content="2"), finish("stop"), usage()])
    assert lines(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta 4",
        "output_text.delta 2",
        "output_text.done 42",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = Response.model_validate(events[-1]["response"])
    assert response.output_text == "42"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 8
    assert response.usage.output_tokens_details.reasoning_tokens == 2
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (12, 5, 17)


def test_reasoning_and_calls_streamed_are_items_of_their_own() -> None:
    chunks = [
        delta(**ROLE),
        delta(reasoning_content="so"),
        delta(content="I add."),
        call(0, "", "add"),
        call(0, '{"a":'),
        call(0, "1}"),
        call(1, "{}", "add"),
        finish("tool_calls"),
        usage(),
    ]
    events = streamed(chunks, tools=[TOOL])
    assert lines(events)[2:-1] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta so",
        "reasoning_text.done so",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta I add.",
        "output_text.done I add.",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        'function_call_arguments.delta {"a":',
        "function_call_arguments.delta 1}",
        'function_call_arguments.done {"a":1}',
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta {}",
        "function_call_arguments.done {}",
        "output_item.done",
    ]
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item.get("call_id") for item in output] == [None, None, "call_0", "call_1"]
    assert len({item["id"] for item in output}) == 4
    indices = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert indices == [0, 1, 2, 3]


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL], "metadata": {"a": "b"}, "instructions": "be brief"}])
def test_whole_answer_equals_the_last_event_of_its_stream(fields: dict[str, Any]) -> None:
    function = {"name": "add", "arguments": "{}"}
    answer = whole(
        "tool_calls",
        content="42",
        reasoning_content="so",
        tool_calls=[{"id": "call_0", "index": None, "function": function}],
    )
    chunks = [delta(reasoning_content="so"), delta(content="42"), call(0, "{}", "add"), finish("tool_calls"), usage()]
    response = translation(**fields).whole(answer)
    assert response == streamed(chunks, **fields)[-1]["response"]
    Response.model_validate(response, strict=True)


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
        ("abort", "incomplete", None),
        ("stop", "completed", None),
    ],
)
def test_end_of_an_answer_sets_the_status(reason: str, status: str, details: object) -> None:
    last_event = streamed([delta(content="4"), finish(reason)])[-1]
    for last in (last_event["response"], translation().whole(whole(reason, content="4"))):
        assert (last["status"], last["incomplete_details"]) == (status, details)
        assert last["output"][0]["status"] == status


def test_empty_answer_has_one_empty_message() -> None:
    assert streamed([delta(**ROLE), finish("stop")])[-1]["response"]["output"][0]["content"][0]["text"] == ""
    assert Response.model_validate(translation().whole(whole(content=""))).output_text == ""


def test_error_after_the_first_event_ends_the_stream_as_failed() -> None:
    error = b'data: {"error": {"message": "it broke", "type": "server_error", "param": null, "code": 502}}\n\n'
    events = streamed([delta(content="4")], error + b"data: [DONE]\n\n")
    assert lines(events)[-5:] == ["output_text.done 4", "content_part.done", "output_item.done", "error", "failed"]
    assert (events[-2]["message"], events[-2]["code"]) == ("it broke", "502")
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "it broke"}


def test_logprobs_of_text_are_passed_on() -> None:
    token = {"token": "4", "bytes": [52], "logprob": -0.5}
    entry = {**token, "top_logprobs": [token]}
    chunk = delta(content="4")
    chunk["choices"][0]["logprobs"] = {"content": [entry]}
    events = streamed([chunk, finish("stop")], top_logprobs=1)
    assert events[4]["logprobs"] == [entry]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [entry]


@pytest.mark.parametrize("broken", [call(0, "{}"), {"choices": "x"}])
def test_answer_that_is_not_a_chat_completion_ends_the_stream_as_failed(broken: dict[str, Any]) -> None:
    assert streamed([delta(content="4"), broken])[-1]["type"] == "response.failed"


def test_answer_longer_than_any_context_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sun_sglang.router.protocol.responses.events.MAX_ANSWER_CHARACTERS", 3)
    assert interface.MAX_ANSWER_CHARACTERS > 3
    assert lines(streamed([delta(content="44"), delta(content="44")]))[-1] == "failed"
