"""The class `OpenAILike` of llama-index."""

from __future__ import annotations

import openai
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from tests.clients import questions as q


def model(v1: str, task: str, **settings: object) -> OpenAILike:
    return OpenAILike(
        api_base=v1,
        api_key="none",
        model=task,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=2048,
        temperature=0,
        max_retries=0,
        **settings,
    )


def weather(city: str, day: str) -> str:
    """Return the weather."""
    return f"{city} {day}"


TOOL = FunctionTool.from_defaults(weather)


def test_llama_index_chat(v1: str) -> None:
    reply = model(v1, "math").chat([ChatMessage(q.SUM)])
    assert (reply.message.content, reply.raw.choices[0].finish_reason) == (q.SUM_ANSWER, "stop")
    assert (reply.raw.usage.prompt_tokens, reply.raw.usage.completion_tokens) == q.SUM_TOKENS


def test_llama_index_stream(v1: str) -> None:
    parts = list(model(v1, "math").stream_chat([ChatMessage(q.SUM)]))
    assert "".join(part.delta or "" for part in parts) == parts[-1].message.content == q.SUM_ANSWER
    assert [part.raw.choices[0].finish_reason for part in parts if part.raw.choices][-1] == "stop"


def test_llama_index_tool_call(v1: str) -> None:
    made = model(v1, "tool")
    (call,) = made.get_tool_calls_from_response(made.chat_with_tools([TOOL], user_msg=q.WEATHER))
    assert (call.tool_name, call.tool_kwargs) == ("weather", q.WEATHER_ANSWER)


def test_llama_index_tool_call_streamed(v1: str) -> None:
    made = model(v1, "tool")
    last = list(made.stream_chat_with_tools([TOOL], user_msg=q.WEATHER))[-1]
    (call,) = made.get_tool_calls_from_response(last)
    assert (call.tool_name, call.tool_kwargs) == ("weather", q.WEATHER_ANSWER)


def test_llama_index_structured_output(v1: str) -> None:
    made = model(v1, "tool", should_use_structured_outputs=True)
    assert made.as_structured_llm(q.Call).chat([ChatMessage(q.WEATHER)]).raw == q.CALL


def test_llama_index_overflow(v1: str) -> None:
    with pytest.raises(openai.BadRequestError, match=q.OVERFLOW) as refused:
        model(v1, "math").chat([ChatMessage(q.LONG)])
    assert refused.value.code == "context_length_exceeded"


def test_llama_index_error_text(v1: str) -> None:
    with pytest.raises(openai.NotFoundError, match="no task is named `gpt-4`; tasks: math, tool"):
        model(v1, "gpt-4").chat([ChatMessage(q.SUM)])
