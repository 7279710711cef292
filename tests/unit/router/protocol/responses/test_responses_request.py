from __future__ import annotations

from typing import Any

import orjson
import pytest

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.nesting import MAX_DEPTH
from sun_sglang.router.protocol.request import Endpoint, parse_request
from sun_sglang.router.protocol.responses.request import ResponseTranslation
from sun_sglang.router.protocol.translation.reading import ADDED_DEPTH

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
PATTERN = {"type": "string", "pattern": "a*"}
JSON_FORMAT = {"type": "json_schema", "name": "n", "schema": SCHEMA}
TOOL = {"type": "function", "name": "add", "description": "adds", "parameters": SCHEMA, "strict": True}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "adds", "parameters": SCHEMA, "strict": True},
}


def chat(**fields: Any) -> dict[str, Any]:
    """Return the chat completion of a request, which passes the checks of a client's own."""
    raw = orjson.dumps({"model": "math", "input": "hi", **fields})
    request = parse_request(Endpoint.CHAT, raw, header_task=None, tasks=("math",), translate=ResponseTranslation)
    return request.body


def refused(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as info:
        chat(**fields)
    assert info.value.status == 400
    return info.value


def test_string_input_is_a_user_message() -> None:
    assert chat()["messages"] == [{"role": "user", "content": "hi"}]


def test_instructions_and_developer_messages_are_one_system_message() -> None:
    items = [{"role": "developer", "content": "b"}, {"role": "user", "content": [{"type": "input_text", "text": "c"}]}]
    assert chat(instructions="a", input=items)["messages"] == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "c"},
    ]


def test_items_of_a_tool_conversation_are_its_messages() -> None:
    """These are the items of an earlier response, as openai-agents and langchain send them back."""
    items = [
        {"role": "user", "content": "1+1 and 2+2"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I add.", "annotations": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{}", "status": "ended"},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "4"}]},
        {"role": "user", "content": "thanks"},
    ]
    function = {"name": "add", "arguments": "{}"}
    assert chat(input=items)["messages"] == [
        {"role": "user", "content": "1+1 and 2+2"},
        {
            "role": "assistant",
            "content": "I add.",
            "reasoning_content": "so",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": function},
                {"id": "c2", "type": "function", "function": function},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "tool", "tool_call_id": "c2", "content": "4"},
        {"role": "user", "content": "thanks"},
    ]


def test_encrypted_reasoning_of_another_server_is_left_out() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    items = [reasoning, {"role": "user", "content": "a"}]
    assert chat(input=items)["messages"] == [{"role": "user", "content": "a"}]


def test_settings_become_those_of_a_chat_completion() -> None:
    body = chat(
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        reasoning={"effort": "low", "summary": "auto"},
        tools=[TOOL],
        tool_choice="none",
        parallel_tool_calls=False,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
        store=True,
        metadata={"a": "b"},
        truncation="auto",
        service_tier="auto",
        user="u",
        prompt_cache_key="k",
        stop=["x"],
        seed=3,
    )
    del body["messages"]
    assert body == {
        "max_completion_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "reasoning_effort": "low",
        "tools": [CHAT_TOOL],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "logprobs": True,
        "top_logprobs": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        "stop": ["x"],
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]}, "required"),
    ],
)
def test_tool_choice_in_each_form_is_that_of_a_chat_completion(given: object, wanted: object) -> None:
    body = chat(tools=[TOOL, {**TOOL, "name": "sub"}], tool_choice=given)
    assert body["tool_choice"] == wanted
    assert len(body["tools"]) == (1 if isinstance(given, dict) and given["type"] == "allowed_tools" else 2)


def test_stream_asks_for_usage() -> None:
    raw = orjson.dumps({"model": "math", "input": "hi", "stream": True})
    request = parse_request(Endpoint.CHAT, raw, header_task=None, tasks=("math",), translate=ResponseTranslation)
    assert request.stream
    assert request.include_usage


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
        ({"tool_choice": {"type": "file_search"}, "tools": [TOOL]}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tools"),
        ({"tool_choice": 3, "tools": [TOOL]}, "tool_choice"),
        ({"tools": "x"}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["x"]}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": []}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 0, "stream": True}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"store": "yes"}, "store"),
        ({"truncation": "some"}, "truncation"),
        ({"include": "x"}, "include"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": JSON_FORMAT}, "tools": [TOOL]}, "text.format"),
        ({"text": {"format": {"type": "json_object"}}, "tools": [TOOL], "tool_choice": "auto"}, "text.format"),
        ({"text": {"format": JSON_FORMAT}, "tools": [TOOL], "tool_choice": "required"}, "text.format"),
        ({"text": {"format": {**JSON_FORMAT, "schema": PATTERN}}}, "text.format"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"bootstrap_host": "evil"}, "bootstrap_host"),
        ({"priority": 3}, "priority"),
        ({"regex": "a*"}, "regex"),
    ],
)
def test_field_that_is_invalid_or_not_supported_is_named(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert f"`{param}" in error.message


def nested(depth: int) -> bytes:
    """Return a request with a tool whose brackets go so deep."""
    brackets = depth - 4  # the others are around
    tool = b'{"type":"function","name":"f","parameters":{"x":' + b"[" * brackets + b"]" * brackets + b"}}"
    return b'{"input":"hi","tools":[' + tool + b"]}"


def test_body_that_nests_to_the_bound_can_be_sent_and_echoed() -> None:
    translation = ResponseTranslation(nested(MAX_DEPTH - ADDED_DEPTH))
    orjson.dumps([translation.body, translation.whole({}), list(translation.writer().chunk({}))])


def test_body_that_nests_deeper_than_the_bound_is_refused() -> None:
    with pytest.raises(RequestError, match="nested deeper than") as info:
        ResponseTranslation(nested(MAX_DEPTH - ADDED_DEPTH + 1))
    assert info.value.code == "invalid_json"


def test_values_are_converted_as_in_a_chat_completion() -> None:
    raw = orjson.dumps({"model": "math", "input": "hi", "max_output_tokens": "12", "stream": "false"})
    translation = ResponseTranslation(raw)
    assert translation.body["max_completion_tokens"] == translation.whole({})["max_output_tokens"] == 12
    assert "stream_options" not in translation.body
    assert not parse_request(
        Endpoint.CHAT, raw, header_task=None, tasks=("math",), translate=ResponseTranslation
    ).stream
