"""The `litellm` package, with its provider `openai/` and its Responses."""

from __future__ import annotations

import json

import litellm
import pytest

from tests.clients import questions as q


def ask(v1: str, task: str, messages: object, **settings: object) -> object:
    return litellm.completion(
        model=f"openai/{task}", api_base=v1, api_key="none", messages=messages, temperature=0, num_retries=0, **settings
    )


def tokens(reply: object) -> tuple[int, int]:
    return reply.usage.prompt_tokens, reply.usage.completion_tokens


def test_litellm_chat(v1: str) -> None:
    reply = ask(v1, "math", q.ASK_SUM)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (q.SUM_ANSWER, "stop")
    assert tokens(reply) == q.SUM_TOKENS


def test_litellm_stream(v1: str) -> None:
    parts = list(ask(v1, "math", q.ASK_SUM, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == q.SUM_ANSWER
    reply = litellm.stream_chunk_builder(parts)
    assert (tokens(parts[-1]), reply.choices[0].finish_reason) == (q.SUM_TOKENS, "stop")


def test_litellm_tool_call(v1: str) -> None:
    reply = ask(v1, "tool", q.ASK_WEATHER, tools=q.TOOLS)
    (call,) = reply.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", q.WEATHER_ANSWER)
    assert (tokens(reply), reply.choices[0].finish_reason) == (q.WEATHER_TOKENS, "tool_calls")


def test_litellm_tool_call_streamed(v1: str) -> None:
    whole = litellm.stream_chunk_builder(list(ask(v1, "tool", q.ASK_WEATHER, tools=q.TOOLS, stream=True)))
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", q.WEATHER_ANSWER)
    assert whole.choices[0].finish_reason == "tool_calls"


def test_litellm_structured_output(v1: str) -> None:
    reply = ask(v1, "tool", q.ASK_WEATHER, response_format=q.Call)
    assert q.Call.model_validate_json(reply.choices[0].message.content) == q.CALL


def test_litellm_overflow(v1: str) -> None:
    with pytest.raises(litellm.ContextWindowExceededError, match=q.OVERFLOW):
        ask(v1, "math", q.ASK_LONG)


def test_litellm_error_text(v1: str) -> None:
    with pytest.raises(litellm.NotFoundError, match="no task is named `gpt-4`; tasks: math, tool"):
        ask(v1, "gpt-4", q.ASK_SUM)


def test_litellm_responses(v1: str) -> None:
    reply = litellm.responses(model="openai/math", api_base=v1, api_key="none", input=q.SUM, temperature=0)
    assert reply.output_text == q.SUM_ANSWER
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == q.SUM_TOKENS
