"""Streamed and whole messages, as transcripts; every event is validated against the anthropic package's types."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from anthropic.types import ErrorResponse, Message
from pydantic import TypeAdapter

from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.messages.errors import error_body
from sun_sglang.router.protocol.messages.request import MessageTranslation
from sun_sglang.router.serving.delivery.translated_answer import translated_whole
from tests.unit.router.protocol.streams import message_of
from tests.unit.router.protocol.transcripts import ROLE, USAGE, call, delta, finish, play, usage, whole

COUNTS = {
    "input_tokens": 4,
    "output_tokens": 5,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 8,
}


def translation(**fields: Any) -> MessageTranslation:
    body = {"model": "math", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return MessageTranslation(orjson.dumps(body))


def streamed(chunks: list[dict[str, Any]], last: bytes = b"data: [DONE]\n\n", **fields: Any) -> list[dict[str, Any]]:
    events = play(translation(**fields).writer(), chunks, last)
    message_of(events)
    return events


def lines(events: list[dict[str, Any]]) -> list[str]:
    return [" ".join([event["type"], *map(str, (event.get("delta") or {}).values())]) for event in events]


def test_text_streamed_yields_one_block_and_the_usage() -> None:
    events = streamed([delta(**ROLE), delta(content="4"), delta(content="2"), finish("stop"), usage()])
    assert lines(events) == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta text_delta 4",
        "content_block_delta text_delta 2",
        "content_block_stop",
        "message_delta end_turn None",
        "message_stop",
    ]
    assert events[-2]["usage"] == COUNTS


def test_first_event_has_the_usage_that_the_first_chunk_reports() -> None:
    first = {**delta(**ROLE), "usage": {**USAGE, "completion_tokens": 0}}
    assert streamed([first, finish("stop")])[0]["message"]["usage"] == {**COUNTS, "output_tokens": 0}


def test_first_event_has_the_usage_of_the_chunk_after_the_role() -> None:
    """As SGLang sends it: the role alone, then text with the usage so far."""
    first = {**delta(content="4"), "usage": {**USAGE, "completion_tokens": 1}}
    writer = translation().writer()
    assert list(writer.chunk(delta(**ROLE))) == []
    start = next(iter(writer.chunk(first)))
    assert start["message"]["usage"] == {**COUNTS, "output_tokens": 1}
    assert start["message"]["id"] == "msg_a1"


@pytest.mark.parametrize("arguments", ["2.2", "[1]", '"x"', ' {"a":1}', "null", ""])
def test_input_of_a_call_streamed_is_that_of_the_whole_answer(arguments: str) -> None:
    """As a required call without `strict` may have it; SGLang sends the bracket after such arguments as text."""
    chunks = [delta(**ROLE), call(0, "", "add"), *(call(0, piece) for piece in arguments)]
    if arguments and arguments[0] not in ' "':
        chunks.append(delta(content="}"))
    message = message_of([*streamed([*chunks, finish("tool_calls"), usage()])])
    calls = [{"id": "call_0", "function": {"name": "add", "arguments": arguments}}]
    answer = translation().whole(whole("tool_calls", content="", tool_calls=calls))
    assert message is not None
    assert [block["input"] for block in message["content"]] == [block["input"] for block in answer["content"]]


@pytest.mark.parametrize("arguments", ["", '{"city": "be', '{"city": "be"}'])
def test_call_that_max_tokens_cut_ends_with_max_tokens(arguments: str) -> None:
    """SGLang closes the brackets of a streamed call that was cut, so only the reason tells it from a complete one."""
    chunks = [delta(**ROLE), call(0, "", "add"), call(0, arguments), finish("length"), usage()]
    message = message_of(streamed(chunks))
    assert message is not None
    assert (message["stop_reason"], message["content"][0]["type"]) == ("max_tokens", "tool_use")


def test_reasoning_and_calls_streamed_are_blocks_of_their_own() -> None:
    chunks = [
        delta(**ROLE),
        delta(reasoning_content="so"),
        delta(content="I add."),
        call(0, "", "add"),
        call(0, '{"a":'),
        call(0, "1}"),
        call(1, "{}", "sub"),
        finish("tool_calls"),
        usage(),
    ]
    events = streamed(chunks)
    assert lines(events)[2:] == [
        "content_block_start",
        "content_block_delta thinking_delta so",
        "content_block_stop",
        "content_block_start",
        "content_block_delta text_delta I add.",
        "content_block_stop",
        "content_block_start",
        'content_block_delta input_json_delta {"a":',
        "content_block_delta input_json_delta 1}",
        "content_block_stop",
        "content_block_start",
        "content_block_delta input_json_delta {}",
        "content_block_stop",
        "message_delta tool_use None",
        "message_stop",
    ]
    blocks = [(e["index"], e["content_block"]["type"]) for e in events if e["type"] == "content_block_start"]
    assert blocks == [(0, "thinking"), (1, "text"), (2, "tool_use"), (3, "tool_use")]
    stops = [e["index"] for e in events if e["type"] == "content_block_stop"]
    assert stops == [0, 1, 2, 3]


def test_whole_answer_is_a_message() -> None:
    calls = [{"id": "call_0", "index": None, "function": {"name": "add", "arguments": '{"a": 1}'}}]
    answer = whole("tool_calls", content="I add.", reasoning_content="so", tool_calls=calls)
    message = translation().whole(answer)
    Message.model_validate(message, strict=True)
    assert message == {
        "id": "msg_a1",
        "type": "message",
        "role": "assistant",
        "model": "math",
        "content": [
            {"type": "thinking", "thinking": "so", "signature": ""},
            {"type": "text", "text": "I add."},
            {"type": "tool_use", "id": "call_0", "name": "add", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": COUNTS,
    }


@pytest.mark.parametrize(
    ("reason", "matched", "stop"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", 2, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "<|eot|>", ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
    ],
)
def test_end_of_an_answer_sets_the_stop_reason(reason: str, matched: object, stop: tuple[str, str | None]) -> None:
    """A stop string that the client did not send is the chat template's."""
    fields = {"stop_sequences": ["END"]}
    ended = streamed([delta(content="4"), finish(reason, matched)], **fields)[-2]["delta"]
    message = translation(**fields).whole(whole(reason, matched, content="4"))
    for found in (ended, message):
        assert (found["stop_reason"], found["stop_sequence"]) == stop


@pytest.mark.parametrize("text", ['{"a": ', "[1]", "3"])
def test_arguments_that_are_no_object_are_kept_as_text(text: str) -> None:
    calls = [{"id": "call_0", "function": {"name": "add", "arguments": text}}]
    assert translation().whole(whole("tool_calls", content=None, tool_calls=calls))["content"][0]["input"] == {
        "arguments": text
    }


@pytest.mark.parametrize(("depth", "is_kept"), [(241, False), (242, True), (1000, True), (5000, True)])
def test_arguments_are_kept_as_text_if_the_client_could_not_send_them_back(depth: int, is_kept: bool) -> None:
    text = '{"a":' * depth + "1" + "}" * depth
    calls = [{"id": "call_0", "function": {"name": "add", "arguments": text}}]
    message = orjson.loads(orjson.dumps(translation().whole(whole("tool_calls", content=None, tool_calls=calls))))
    assert (message["content"][0]["input"] == {"arguments": text}) is is_kept
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": message["content"]}]
    assert translation(messages=turns).body["messages"][1]["tool_calls"]


def test_empty_answer_is_a_message_without_content() -> None:
    assert lines(streamed([delta(**ROLE), finish("stop")])) == [
        "message_start",
        "ping",
        "message_delta end_turn None",
        "message_stop",
    ]
    assert translation().whole(whole(content=""))["content"] == []


def test_error_after_the_first_event_ends_the_stream_as_an_error() -> None:
    error = b'data: {"error": {"message": "it broke", "type": "server_error", "code": "stream_broken"}}\n\n'
    events = streamed([delta(content="4")], error + b"data: [DONE]\n\n")
    assert events[-1] == {"type": "error", "error": {"type": "api_error", "message": "it broke"}}


def test_calls_with_one_index_are_blocks_of_their_own() -> None:
    for index in (0, -1):
        chunks = [call(index, "", "add"), call(index, "{}"), call(index, "", "add"), call(index, '{"a":1}')]
        message = message_of(streamed([*chunks, finish("tool_calls")]))
        assert message is not None
        assert [(block["name"], block["input"]) for block in message["content"]] == [("add", {}), ("add", {"a": 1})]
        assert len({block["id"] for block in message["content"]}) == 2


def test_text_between_calls_does_not_cut_their_arguments() -> None:
    chunks = [call(0, '{"a":', "add"), delta(content="t"), call(0, "1}"), call(1, "{}", "add"), finish("tool_calls")]
    message = message_of(streamed(chunks))
    assert message is not None
    assert [block.get("input", block.get("text")) for block in message["content"]] == [{"a": 1}, "t", {}]


def test_calls_of_a_whole_answer_that_have_one_id_get_ids_of_their_own() -> None:
    calls = [{"id": "f:0", "index": 0, "function": {"name": "add", "arguments": "{}"}}] * 2
    message = translation().whole(whole("tool_calls", content=None, tool_calls=calls))
    assert [block["id"] for block in message["content"]] == ["f:0", "toolu_msg_a1_1"]


def test_aborted_answer_ends_as_the_same_error_whole_and_streamed() -> None:
    """A client must not take a part of an answer for the whole; no client repeats a request after a 400."""
    with pytest.raises(ApiError) as info:
        translated_whole(translation(), whole("abort", content="4"))
    assert (info.value.status, info.value.code) == (400, "aborted")
    shown = orjson.loads(error_body(info.value.status, info.value.as_json(), "r1"))
    assert streamed([delta(content="4"), finish("abort")])[-1]["error"] == shown["error"]


@pytest.mark.parametrize("broken", [call(0, "{}"), {"choices": "x"}, finish("abort")])
def test_answer_that_is_not_complete_ends_the_stream_as_an_error(broken: dict[str, Any]) -> None:
    assert streamed([delta(content="4"), broken])[-1]["type"] == "error"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (422, "invalid_request_error"),
    ],
)
def test_error_body_has_the_shape_of_anthropics_api(status: int, kind: str) -> None:
    body = orjson.loads(error_body(status, b'{"error": {"message": "no", "type": "x", "code": null}}', "r1"))
    assert body == {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "r1"}
    if status != 413:  # documented, and missing from the package's types
        TypeAdapter(ErrorResponse).validate_python(body)


def test_overflow_has_the_words_that_claude_clients_look_for() -> None:
    found = error_body(400, b'{"error": {"message": "9 tokens", "code": "context_length_exceeded"}}', "r1")
    assert b"prompt is too long: 9 tokens" in found


def sglang_overflow(prompt: int, answer: int) -> bytes:
    message = (
        "Requested token count exceeds the model's maximum context length of 2048 tokens. You requested a total of "
        f"{prompt + answer} tokens: {prompt} tokens from the input messages and {answer} tokens for the completion. "
        "Please reduce the number of tokens in the input messages or the completion to fit within the limit."
    )
    return orjson.dumps({"error": {"message": message, "code": "context_length_exceeded"}})


def test_overflow_by_the_answer_alone_has_anthropics_text_and_numbers() -> None:
    """Claude's clients read the numbers and send a smaller `max_tokens`; the other text makes them shorten."""
    text = "input length and `max_tokens` exceed context limit: 34 + 5000 > 2048, decrease input length or `max_tokens`"
    message = orjson.loads(error_body(400, sglang_overflow(34, 5000), "r1"))["error"]["message"]
    assert message == f"{text} and try again"
    assert b"prompt is too long" in error_body(400, sglang_overflow(2048, 5), "r1")


@pytest.mark.parametrize(
    ("openai_type", "kind"),
    [
        ("invalid_request_error", "invalid_request_error"),
        ("service_unavailable", "overloaded_error"),
        ("server_error", "api_error"),
        ("BadRequestError", "api_error"),
    ],
)
def test_error_in_a_stream_has_anthropics_type_for_openais(openai_type: str, kind: str) -> None:
    error = orjson.dumps({"error": {"message": "no", "type": openai_type, "code": None}})
    assert streamed([delta(content="4")], b"data: " + error + b"\n\n")[-1]["error"]["type"] == kind
