"""The `openai` package: Responses."""

from __future__ import annotations

import json

import openai
import pytest

from tests.clients import questions as q


@pytest.fixture
def client(v1: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=v1, api_key="none", max_retries=0)


def test_openai_responses_chat(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="math", input=q.SUM, temperature=0)
    assert (reply.output_text, reply.status) == (q.SUM_ANSWER, "completed")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == q.SUM_TOKENS


def test_openai_responses_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="math", input=q.SUM, temperature=0) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        reply = stream.get_final_response()
    assert reply.output_text == text == q.SUM_ANSWER
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == q.SUM_TOKENS


def test_openai_responses_tool_call_streamed(client: openai.OpenAI) -> None:
    tools = [{"type": "function", **q.TOOLS[0]["function"], "strict": False}]
    with client.responses.stream(model="tool", input=q.WEATHER, temperature=0, tools=tools) as stream:
        arguments = [e.snapshot for e in stream if e.type == "response.function_call_arguments.delta"]
        (call,) = stream.get_final_response().output
    assert (call.name, json.loads(call.arguments)) == ("weather", q.WEATHER_ANSWER)
    assert arguments[-1] == call.arguments


def test_openai_responses_structured_output(client: openai.OpenAI) -> None:
    reply = client.responses.parse(model="tool", input=q.WEATHER, temperature=0, text_format=q.Call)
    assert reply.output_parsed == q.CALL
