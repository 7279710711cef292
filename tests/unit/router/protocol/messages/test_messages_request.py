from __future__ import annotations

from typing import Any

import orjson
import pytest

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.messages.request import MessageTranslation
from sun_sglang.router.protocol.request import Endpoint, Request, parse_request

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ANY = {"type": "any"}
JSON_FORMAT = {"type": "json_schema", "schema": SCHEMA}
PATTERN = {"type": "string", "pattern": "a*"}
TOOL = {"name": "add", "description": "adds", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}


def parsed(**fields: Any) -> Request:
    """Return the request as a chat completion, which passes the checks of a client's own."""
    given = {"model": "math", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_request(
        Endpoint.CHAT, orjson.dumps(given), header_task=None, tasks=("math",), translate=MessageTranslation
    )


def messages(*turns: tuple[str, object], **fields: Any) -> Any:
    return parsed(messages=[{"role": role, "content": content} for role, content in turns], **fields).body["messages"]


def test_conversation_with_tools_is_that_of_a_chat_completion() -> None:
    """As Claude's clients send it: blocks with `cache_control`, thinking, parallel calls, results before text."""
    cached = {"cache_control": {"type": "ephemeral"}}
    found = messages(
        ("user", [{"type": "text", "text": "1+1 and 2+2", **cached}]),
        (
            "assistant",
            [
                {"type": "thinking", "thinking": "so", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I add."},
                {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
                {"type": "tool_use", "id": "c2", "name": "add", "input": {}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "c1", "content": "2", **cached},
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "content": [{"type": "text", "text": "4"}],
                    "is_error": False,
                },
                {"type": "text", "text": "thanks"},
            ],
        ),
        system=[{"type": "text", "text": "be brief", **cached}, {"type": "text", "text": "be kind"}],
    )
    assert found == [
        {"role": "system", "content": "be brief\n\nbe kind"},
        {"role": "user", "content": "1+1 and 2+2"},
        {
            "role": "assistant",
            "content": "I add.",
            "reasoning_content": "so",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "add", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "tool", "tool_call_id": "c2", "content": "4"},
        {"role": "user", "content": "thanks"},
    ]


def test_system_as_string_is_a_system_message() -> None:
    assert messages(("user", "hi"), system="be brief")[0] == {"role": "system", "content": "be brief"}


def test_beginning_of_the_answer_is_continued() -> None:
    assert parsed(messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "{"}]).body[
        "continue_final_message"
    ]
    assert "continue_final_message" not in parsed().body


@pytest.mark.parametrize("empty", ["", []])
def test_empty_beginning_of_the_answer_is_left_out(empty: object) -> None:
    assert parsed(messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": empty}]).body[
        "messages"
    ] == [{"role": "user", "content": "hi"}]


def test_settings_become_those_of_a_chat_completion() -> None:
    body = parsed(
        temperature=0,
        top_k=5,
        top_p=0.5,
        stop_sequences=["END"],
        tools=[TOOL],
        tool_choice={"type": "none", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"effort": "xhigh", "format": {"type": "json_schema", "schema": SCHEMA}},
        metadata={"user_id": "u"},
        service_tier="auto",
        context_management={"edits": []},
    ).body
    del body["messages"]
    assert body == {
        "max_tokens": 9,
        "temperature": 0,
        "top_k": 5,
        "top_p": 0.5,
        "stop": ["END"],
        "tools": [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": SCHEMA}}],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": True, "thinking": True},
        "reasoning_effort": "xhigh",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "response", "schema": SCHEMA, "strict": True},
        },
    }


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_tool_choice_in_each_form_is_that_of_a_chat_completion(given: object, wanted: object) -> None:
    assert parsed(tools=[TOOL], tool_choice=given).body["tool_choice"] == wanted


def test_stream_asks_for_usage_from_its_first_event_on() -> None:
    request = parsed(stream=True)
    assert request.stream_options == {"include_usage": True, "continuous_usage_stats": True}


def turn(content: object, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "nine"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        (turn("x", "critic"), "messages[0].role"),
        (turn(3), "messages[0].content"),
        (turn([{"type": "image"}]), "messages[0].content[0].type"),
        (turn([{"type": "text"}]), "messages[0].content[0].text"),
        (turn([{"type": "tool_result"}]), "messages[0].content[0].tool_use_id"),
        (
            turn([{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "image"}]}]),
            "messages[0].content[0].content[0].type",
        ),
        (
            turn([{"type": "tool_use", "id": "c", "name": "f", "input": "x"}], "assistant"),
            "messages[0].content[0].input",
        ),
        (turn([{"type": "server_tool_use"}], "assistant"), "messages[0].content[0].type"),
        ({"system": 3}, "system"),
        ({"system": [{"type": "text", "text": "a"}, {"type": "image"}]}, "system[1].type"),
        ({"system": [{"type": "text"}]}, "system[0].text"),
        (turn("", "assistant"), "messages"),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tools"),
        ({"tools": [], "tool_choice": {"type": "tool", "name": "f"}}, "tools"),
        ({"stop_sequences": [3]}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences"),
        ({"stop_sequences": ["a" * 2000]}, "stop_sequences"),
        ({"output_config": {"format": JSON_FORMAT}, "tools": [TOOL]}, "output_config.format"),
        ({"output_format": JSON_FORMAT, "tools": [TOOL], "tool_choice": {"type": "auto"}}, "output_format"),
        ({"output_config": {"format": JSON_FORMAT}, "tools": [TOOL], "tool_choice": ANY}, "output_config.format"),
        ({"output_config": {"format": {**JSON_FORMAT, "schema": PATTERN}}}, "output_config.format"),
        ({"thinking": {"type": "some"}}, "thinking.type"),
        ({"output_config": {"effort": "some"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"url": "http://evil"}]}, "mcp_servers"),
        ({"bootstrap_room": 3}, "bootstrap_room"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
    ],
)
def test_field_that_is_invalid_or_not_supported_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as info:
        parsed(**fields)
    assert info.value.status == 400
    assert info.value.param == param
    assert f"`{param}" in info.value.message
