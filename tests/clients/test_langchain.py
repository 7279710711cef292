"""The `langchain-openai` package: chat completions and Responses."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_openai import ChatOpenAI

from tests.clients import questions as q


def model(v1: str, task: str, **settings: object) -> ChatOpenAI:
    return ChatOpenAI(base_url=v1, api_key="none", model=task, temperature=0, max_retries=0, **settings)


def whole(parts: Iterable[AIMessageChunk]) -> AIMessageChunk:
    return reduce(add, parts)


def tokens(reply: AIMessage) -> tuple[int, int]:
    return reply.usage_metadata["input_tokens"], reply.usage_metadata["output_tokens"]


def test_langchain_chat(v1: str) -> None:
    reply = model(v1, "math").invoke(q.SUM)
    assert (reply.text, reply.response_metadata["finish_reason"]) == (q.SUM_ANSWER, "stop")
    assert tokens(reply) == q.SUM_TOKENS


def test_langchain_stream(v1: str) -> None:
    reply = whole(model(v1, "math", stream_usage=True).stream(q.SUM))
    assert (reply.text, reply.response_metadata["finish_reason"]) == (q.SUM_ANSWER, "stop")
    assert tokens(reply) == q.SUM_TOKENS


def test_langchain_tool_call(v1: str) -> None:
    reply = model(v1, "tool").bind_tools(q.TOOLS).invoke(q.WEATHER)
    (call,) = reply.tool_calls
    assert (call["name"], call["args"]) == ("weather", q.WEATHER_ANSWER)
    assert reply.response_metadata["finish_reason"] == "tool_calls"
    assert tokens(reply) == q.WEATHER_TOKENS


def test_langchain_tool_call_streamed(v1: str) -> None:
    reply = whole(model(v1, "tool").bind_tools(q.TOOLS).stream(q.WEATHER))
    (call,) = reply.tool_calls
    assert (call["name"], call["args"]) == ("weather", q.WEATHER_ANSWER)
    assert reply.response_metadata["finish_reason"] == "tool_calls"


def test_langchain_structured_output(v1: str) -> None:
    assert model(v1, "tool").with_structured_output(q.Call).invoke(q.WEATHER) == q.CALL


def test_langchain_overflow(v1: str) -> None:
    with pytest.raises(openai.BadRequestError, match=q.OVERFLOW) as refused:
        model(v1, "math").invoke(q.LONG)
    assert refused.value.code == "context_length_exceeded"


def test_langchain_error_text(v1: str) -> None:
    with pytest.raises(openai.NotFoundError, match="no task is named `gpt-4`; tasks: math, tool"):
        model(v1, "gpt-4").invoke(q.SUM)


def test_langchain_responses(v1: str) -> None:
    reply = model(v1, "math", use_responses_api=True).invoke(q.SUM)
    assert (reply.text, tokens(reply)) == (q.SUM_ANSWER, q.SUM_TOKENS)


def test_langchain_responses_tool_call_streamed(v1: str) -> None:
    reply = whole(model(v1, "tool", use_responses_api=True).bind_tools(q.TOOLS).stream(q.WEATHER))
    (call,) = reply.tool_calls
    assert (call["name"], call["args"]) == ("weather", q.WEATHER_ANSWER)
    assert tokens(reply) == q.WEATHER_TOKENS
