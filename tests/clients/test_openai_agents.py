"""The OpenAI Agents SDK, which starts at `/v1/responses`."""

from __future__ import annotations

import asyncio

import openai
import pytest
from agents import (
    Agent,
    AgentOutputSchema,
    FunctionTool,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunResultStreaming,
)
from agents.result import RunResultBase

from tests.clients import questions as q

QUIET = RunConfig(tracing_disabled=True)


def agent(v1: str, task: str, kind: type = OpenAIResponsesModel, **settings: object) -> Agent:
    client = openai.AsyncOpenAI(base_url=v1, api_key="none", max_retries=0)
    return Agent(
        name="demo",
        model=kind(model=task, openai_client=client),
        model_settings=ModelSettings(temperature=0, max_tokens=200),
        **settings,
    )


def weather(calls: list[str]) -> FunctionTool:
    async def run(_: object, arguments: str) -> str:
        calls.append(arguments)
        return "sunny"

    return FunctionTool(
        name="weather", description="weather", params_json_schema=q.SCHEMA, on_invoke_tool=run, strict_json_schema=False
    )


def called(v1: str, kind: type = OpenAIResponsesModel) -> list[str]:
    """Return the arguments of the tool calls of one turn; the agent stops at the tool's result."""
    calls: list[str] = []
    made = agent(v1, "tool", kind, tools=[weather(calls)], tool_use_behavior="stop_on_first_tool")
    assert asyncio.run(Runner.run(made, q.WEATHER, run_config=QUIET)).final_output == "sunny"
    return calls


def tokens(run: RunResultBase) -> tuple[int, int]:
    usage = run.context_wrapper.usage
    return usage.input_tokens, usage.output_tokens


def test_openai_agents_chat(v1: str) -> None:
    run = asyncio.run(Runner.run(agent(v1, "math"), q.SUM, run_config=QUIET))
    assert (run.final_output, tokens(run)) == (q.SUM_ANSWER, q.SUM_TOKENS)


def test_openai_agents_stream(v1: str) -> None:
    async def streamed() -> tuple[str, RunResultStreaming]:
        run = Runner.run_streamed(agent(v1, "math"), q.SUM, run_config=QUIET)
        parts = [
            event.data.delta
            async for event in run.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        return "".join(parts), run

    text, run = asyncio.run(streamed())
    assert (text, run.final_output, tokens(run)) == (q.SUM_ANSWER, q.SUM_ANSWER, q.SUM_TOKENS)


def test_openai_agents_tool_call(v1: str) -> None:
    (arguments,) = called(v1)
    assert q.Place.model_validate_json(arguments) == q.CALL.arguments


def test_openai_agents_tool_call_streamed(v1: str) -> None:
    calls: list[str] = []

    async def streamed() -> None:
        made = agent(v1, "tool", tools=[weather(calls)], tool_use_behavior="stop_on_first_tool")
        run = Runner.run_streamed(made, q.WEATHER, run_config=QUIET)
        async for _ in run.stream_events():
            pass

    asyncio.run(streamed())
    assert [q.Place.model_validate_json(arguments) for arguments in calls] == [q.CALL.arguments]


def test_openai_agents_structured_output(v1: str) -> None:
    made = agent(v1, "tool", output_type=AgentOutputSchema(q.Call))
    assert asyncio.run(Runner.run(made, q.WEATHER, run_config=QUIET)).final_output == q.CALL


def test_openai_agents_overflow(v1: str) -> None:
    with pytest.raises(openai.BadRequestError, match=q.OVERFLOW) as refused:
        asyncio.run(Runner.run(agent(v1, "math"), q.LONG, run_config=QUIET))
    assert refused.value.code == "context_length_exceeded"


def test_openai_agents_error_text(v1: str) -> None:
    with pytest.raises(openai.NotFoundError, match="no task is named `gpt-4`; tasks: math, tool"):
        asyncio.run(Runner.run(agent(v1, "gpt-4"), q.SUM, run_config=QUIET))


def test_openai_agents_chat_completions_tool_call(v1: str) -> None:
    assert len(called(v1, OpenAIChatCompletionsModel)) == 1
