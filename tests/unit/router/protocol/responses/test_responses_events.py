"""Streamed and whole responses, as transcripts; every event is validated against the openai package's types."""

from __future__ import annotations

import tracemalloc
from collections import deque
from itertools import chain, count
from typing import Any

import orjson
import pytest
from openai.types.responses import Response

from sun_sglang.router.protocol.responses.request import ResponseTranslation
from sun_sglang.router.protocol.translation import step_order
from sun_sglang.router.protocol.worker_replies import BadReplyError
from tests.unit.router.protocol.streams import response_of
from tests.unit.router.protocol.transcripts import ROLE, call, delta, finish, play, usage, whole

TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}


def translation(**fields: Any) -> ResponseTranslation:
    return ResponseTranslation(orjson.dumps({"model": "math", "input": "hi", **fields}))


def streamed(chunks: list[dict[str, Any]], last: bytes = b"data: [DONE]\n\n", **fields: Any) -> list[dict[str, Any]]:
    events = play(translation(**fields).writer(), chunks, last)
    response_of(events)
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


def test_settings_are_repeated_as_they_were_understood() -> None:
    given = {"temperature": "0.5", "top_p": "1", "top_logprobs": "2", "parallel_tool_calls": "false"}
    response = streamed([delta(content="4"), finish("stop")], **given)[-1]["response"]
    assert [response[name] for name in given] == [0.5, 1.0, 2, False]


def test_empty_answer_has_one_empty_message() -> None:
    assert streamed([delta(**ROLE), finish("stop")])[-1]["response"]["output"][0]["content"][0]["text"] == ""
    assert Response.model_validate(translation().whole(whole(content=""))).output_text == ""


def test_error_after_the_first_event_ends_the_stream_as_failed() -> None:
    error = b'data: {"error": {"message": "it broke", "type": "server_error", "param": null, "code": 502}}\n\n'
    events = streamed([delta(content="4")], error + b"data: [DONE]\n\n")
    assert lines(events)[-5:] == ["output_text.done 4", "content_part.done", "output_item.done", "error", "failed"]
    assert (events[-2]["message"], events[-2]["code"]) == ("it broke", "502")
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "it broke"}


def with_logprobs(chunk: dict[str, Any], *tokens: str, top: int = 1) -> dict[str, Any]:
    entries = [{"token": token, "bytes": list(token.encode()), "logprob": -0.5} for token in tokens]
    chunk["choices"][0]["logprobs"] = {"content": [{**entry, "top_logprobs": [entry] * top} for entry in entries]}
    return chunk


def test_logprobs_of_text_are_passed_on() -> None:
    chunk = with_logprobs(delta(content="4"), "4")
    entries = chunk["choices"][0]["logprobs"]["content"]
    events = streamed([chunk, finish("stop")], top_logprobs=1)
    assert events[4]["logprobs"] == entries
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == entries


def test_logprobs_of_tokens_without_text_are_those_of_the_whole_answer() -> None:
    """The detokenizer holds half a character back, and a parser sends the logprobs after the text."""
    chunks = [
        with_logprobs(delta(reasoning_content="so"), "so"),
        with_logprobs(delta(), "</think>"),
        with_logprobs(delta(content=None), "h"),
        with_logprobs(delta(content="é"), "é"),
        delta(content="4"),
        with_logprobs(delta(), "4"),
        finish("stop"),
    ]
    entries = [entry for c in chunks[:-1] for entry in c["choices"][0].get("logprobs", {"content": []})["content"]]
    answer = whole("stop", content="é4", reasoning_content="so")
    answer["choices"][0]["logprobs"] = {"content": entries}
    response = orjson.loads(orjson.dumps(translation(top_logprobs=1).whole(answer)))
    streamed_output = streamed(chunks, top_logprobs=1)[-1]["response"]["output"]
    assert streamed_output == response["output"]
    assert [entry["token"] for entry in streamed_output[1]["content"][0]["logprobs"]] == [
        *("so", "</think>", "h", "é", "4"),
    ]


@pytest.mark.parametrize("entry", [3, {"token": "4"}, {"token": "4", "logprob": -1, "bytes": [], "top_logprobs": [{}]}])
def test_logprobs_of_another_shape_are_left_out(entry: object) -> None:
    chunk = delta(content="4")
    chunk["choices"][0]["logprobs"] = {"content": [entry]}
    assert streamed([chunk, finish("stop")])[4]["logprobs"] == []


def test_calls_with_one_index_are_items_of_their_own() -> None:
    """As gemma4 streams them: the index is the place of the tool, and -1 for a tool that the client did not send."""
    for index in (0, -1):
        chunks = [call(index, "", "add"), call(index, "{}"), call(index, "", "add"), call(index, '{"a":1}')]
        items = streamed([*chunks, finish("tool_calls")])[-1]["response"]["output"]
        assert [(item["name"], item["arguments"]) for item in items] == [("add", "{}"), ("add", '{"a":1}')]
        assert len({item["call_id"] for item in items}) == 2


def test_text_between_calls_does_not_cut_their_arguments() -> None:
    chunks = [call(0, '{"a":', "add"), delta(content="t"), call(0, "1}"), call(1, "{}", "add"), finish("tool_calls")]
    items = streamed(chunks)[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["function_call", "message", "function_call"]
    assert [item.get("arguments") for item in items] == ['{"a":1}', None, "{}"]


@pytest.mark.parametrize(("reason", "arguments"), [("tool_calls", "{}"), ("length", "")])
def test_call_without_arguments_has_an_empty_object_if_it_is_complete(reason: str, arguments: str) -> None:
    calls = [{"id": "c", "function": {"name": "add", "arguments": ""}}]
    item = translation().whole(whole(reason, content=None, tool_calls=calls))["output"][0]
    assert item["arguments"] == arguments
    events = streamed([call(0, "", "add"), finish(reason)])
    assert events[-1]["response"]["output"][0]["arguments"] == arguments


def test_choice_other_than_the_first_is_left_out() -> None:
    second = delta(content="5")
    second["choices"][0]["index"] = 1
    assert (
        streamed([delta(content="4"), second, finish("stop")])[-1]["response"]["output"][0]["content"][0]["text"] == "4"
    )


def sends(kind: str, number: int) -> dict[str, Any]:
    match kind:
        case "logprobs":
            return with_logprobs(delta(content="a"), "a", top=20)
        case "logprobs without text":
            return with_logprobs(delta(), "a", top=20)
        case "wide text":
            return delta(content="😀" * 40)
        case "items":
            return delta(content="a") if number % 2 else delta(reasoning_content="a")
        case "calls":
            return call(number, "{}", "add")
        case "calls that wait":
            return call(number, "", "add")
        case _:
            return delta(content="a") if number else call(0, "{", "add")


@pytest.mark.parametrize(
    "kind", ["logprobs", "logprobs without text", "wide text", "items", "calls", "calls that wait", "text that waits"]
)
def test_memory_of_a_stream_is_bounded_by_what_is_counted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 1 << 19
    monkeypatch.setattr(step_order, "MAX_ANSWER_BYTES", most)
    writer = translation().writer()
    tracemalloc.start()
    try:
        with pytest.raises(BadReplyError, match="over"):
            deque(chain.from_iterable(writer.chunk(sends(kind, number)) for number in count()), maxlen=0)
        assert tracemalloc.get_traced_memory()[0] < 1.5 * most, "buffers grow by an eighth to a quarter"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("broken", [call(0, "{}"), {"choices": "x"}])
def test_answer_that_is_not_a_chat_completion_ends_the_stream_as_failed(broken: dict[str, Any]) -> None:
    assert streamed([delta(content="4"), broken])[-1]["type"] == "response.failed"


def test_answer_longer_than_any_context_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{step_order.__name__}.MAX_ANSWER_BYTES", step_order._ITEM_BYTES + 15)
    assert lines(streamed([delta(content="44"), delta(content="44")]))[-1] == "failed"
