"""The `anthropic` package: Messages."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.clients import questions as q

TOOLS: Any = [{"name": "weather", "description": "weather", "input_schema": q.SCHEMA}]
ZERO = {"temperature": 0}


@pytest.fixture
def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


def tokens(usage: anthropic.types.Usage) -> tuple[int, int]:
    """Return the tokens of the prompt, which Messages counts in two parts, and of the answer."""
    return usage.input_tokens + (usage.cache_read_input_tokens or 0), usage.output_tokens


def test_anthropic_chat(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(model="math", max_tokens=64, messages=q.ASK_SUM, extra_body=ZERO)
    assert [block.text for block in reply.content if block.type == "text"] == [q.SUM_ANSWER]
    assert reply.stop_reason == "end_turn"
    assert tokens(reply.usage) == q.SUM_TOKENS


def test_anthropic_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="math", max_tokens=64, messages=q.ASK_SUM, extra_body=ZERO) as stream:
        assert "".join(stream.text_stream) == q.SUM_ANSWER
        reply = stream.get_final_message()
    assert reply.stop_reason == "end_turn"
    assert tokens(reply.usage) == q.SUM_TOKENS


def test_anthropic_tool_call(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(model="tool", max_tokens=200, messages=q.ASK_WEATHER, tools=TOOLS, extra_body=ZERO)
    (call,) = [block for block in reply.content if block.type == "tool_use"]
    assert (call.name, call.input, reply.stop_reason) == ("weather", q.WEATHER_ANSWER, "tool_use")
    assert tokens(reply.usage) == q.WEATHER_TOKENS


def test_anthropic_tool_call_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="tool", max_tokens=200, messages=q.ASK_WEATHER, tools=TOOLS, extra_body=ZERO
    ) as stream:
        reply = stream.get_final_message()
    (call,) = [block for block in reply.content if block.type == "tool_use"]
    assert (call.name, call.input, reply.stop_reason) == ("weather", q.WEATHER_ANSWER, "tool_use")
    assert tokens(reply.usage) == q.WEATHER_TOKENS


def test_anthropic_structured_output(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(
        model="tool",
        max_tokens=200,
        messages=q.ASK_WEATHER,
        output_config={"format": {"type": "json_schema", "schema": q.Call.model_json_schema()}},
        extra_body=ZERO,
    )
    assert q.Call.model_validate_json(reply.content[0].text) == q.CALL


def test_anthropic_overflow(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=q.OVERFLOW) as refused:
        client.messages.create(model="math", max_tokens=64, messages=q.ASK_LONG)
    assert refused.value.body["error"]["type"] == "invalid_request_error"


def test_anthropic_error_text(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="no task is named `claude`; tasks: math, tool") as refused:
        client.messages.create(model="claude", max_tokens=64, messages=q.ASK_SUM)
    assert (refused.value.body["type"], refused.value.body["error"]["type"]) == ("error", "not_found_error")


def test_anthropic_count_tokens(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model="math", messages=q.ASK_SUM).input_tokens == q.SUM_TOKENS[0]
