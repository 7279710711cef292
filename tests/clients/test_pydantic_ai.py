"""Agents of `pydantic-ai`: chat completions and Responses."""

from __future__ import annotations

import asyncio

import pytest
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients import questions as q


def agent(v1: str, task: str, kind: type = OpenAIChatModel, **settings: object) -> Agent:
    provider = OpenAIProvider(base_url=v1, api_key="none")
    return Agent(
        kind(task, provider=provider), model_settings={"temperature": 0, "max_tokens": 200}, retries=0, **settings
    )


def tokens(response: ModelResponse) -> tuple[int, int]:
    return response.usage.input_tokens, response.usage.output_tokens


def test_pydantic_ai_chat(v1: str) -> None:
    run = agent(v1, "math").run_sync(q.SUM)
    assert (run.output, run.response.finish_reason) == (q.SUM_ANSWER, "stop")
    assert tokens(run.response) == q.SUM_TOKENS


def test_pydantic_ai_stream(v1: str) -> None:
    async def streamed() -> tuple[str, ModelResponse]:
        async with agent(v1, "math").run_stream(q.SUM) as run:
            return await run.get_output(), run.response

    text, response = asyncio.run(streamed())
    assert (text, response.finish_reason) == (q.SUM_ANSWER, "stop")
    assert tokens(response) == q.SUM_TOKENS


def test_pydantic_ai_tool_call(v1: str) -> None:
    """The output is a tool, which the client requires."""
    assert isinstance(agent(v1, "tool", output_type=q.Place).run_sync(q.WEATHER).output, q.Place)


def test_pydantic_ai_tool_call_streamed(v1: str) -> None:
    async def streamed() -> q.Place:
        async with agent(v1, "tool", output_type=q.Place).run_stream(q.WEATHER) as run:
            return await run.get_output()

    assert isinstance(asyncio.run(streamed()), q.Place)


def test_pydantic_ai_structured_output(v1: str) -> None:
    assert isinstance(agent(v1, "tool", output_type=NativeOutput(q.Call)).run_sync(q.WEATHER).output, q.Call)


def test_pydantic_ai_overflow(v1: str) -> None:
    with pytest.raises(ModelHTTPError, match=q.OVERFLOW) as refused:
        agent(v1, "math").run_sync(q.LONG)
    assert refused.value.status_code == 400


def test_pydantic_ai_error_text(v1: str) -> None:
    with pytest.raises(ModelHTTPError, match="no task is named `gpt-4`") as refused:
        agent(v1, "gpt-4").run_sync(q.SUM)
    assert refused.value.status_code == 404


def test_pydantic_ai_responses(v1: str) -> None:
    run = agent(v1, "math", OpenAIResponsesModel).run_sync(q.SUM)
    assert (run.output, run.response.finish_reason, tokens(run.response)) == (q.SUM_ANSWER, "stop", q.SUM_TOKENS)
