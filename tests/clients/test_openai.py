"""The `openai` package: chat completions."""

from __future__ import annotations

import json

import openai
import pytest

from tests.clients import questions as q


@pytest.fixture
def client(v1: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=v1, api_key="none", max_retries=0)


def tokens(usage: object) -> tuple[int, int]:
    return usage.prompt_tokens, usage.completion_tokens


def test_openai_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="math", messages=q.ASK_SUM, temperature=0)
    assert reply.choices[0].message.content == q.SUM_ANSWER
    assert (reply.model, reply.choices[0].finish_reason) == ("math", "stop")
    assert tokens(reply.usage) == q.SUM_TOKENS
    assert reply.usage.total_tokens == sum(q.SUM_TOKENS)


def test_openai_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="math", messages=q.ASK_SUM, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == q.SUM_ANSWER
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert tokens(chunks[-1].usage) == q.SUM_TOKENS


def test_openai_tool_call(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tool", messages=q.ASK_WEATHER, temperature=0, tools=q.TOOLS)
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", q.WEATHER_ANSWER)
    assert reply.choices[0].finish_reason == "tool_calls"
    assert tokens(reply.usage) == q.WEATHER_TOKENS


def test_openai_tool_call_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="tool", messages=q.ASK_WEATHER, temperature=0, tools=q.TOOLS) as stream:
        reply = stream.get_final_completion()
    (call,) = reply.choices[0].message.tool_calls or ()
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", q.WEATHER_ANSWER)
    assert reply.choices[0].finish_reason == "tool_calls"


def test_openai_required_call(client: openai.OpenAI) -> None:
    """Without `strict`, SGLang constrains the function's name, and its arguments to any JSON."""
    reply = client.chat.completions.create(
        model="tool", messages=q.ASK_WEATHER, temperature=0, max_tokens=200, tools=q.TOOLS, tool_choice="required"
    )
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.function.name == "weather"
    json.loads(call.function.arguments)


def test_openai_strict_call(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tool",
        messages=q.ASK_WEATHER,
        temperature=0,
        tools=[openai.pydantic_function_tool(q.Place, name="weather")],
        tool_choice="required",
    )
    (call,) = reply.choices[0].message.tool_calls or ()
    q.Place.model_validate_json(call.function.arguments)


def test_openai_structured_output(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(model="tool", messages=q.ASK_WEATHER, temperature=0, response_format=q.Call)
    assert reply.choices[0].message.parsed == q.CALL


def test_openai_overflow(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=q.OVERFLOW) as refused:
        client.chat.completions.create(model="math", messages=q.ASK_LONG)
    assert (refused.value.status_code, refused.value.code) == (400, "context_length_exceeded")


def test_openai_error_text(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no task is named `gpt-4`; tasks: math, tool") as refused:
        client.chat.completions.create(model="gpt-4", messages=q.ASK_SUM)
    # the package also reads an error without this member
    assert set(refused.value.response.json()) == {"error"}
    assert (refused.value.type, refused.value.param, refused.value.code) == (
        "invalid_request_error",
        "model",
        "model_not_found",
    )
