"""Clients that were written for SGLang or for OpenAI work against the router as they are."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from jsonschema import validate

from tests.engine.conftest import Deployment, Reference, gather
from tests.engine.watch import metric
from tests.support.sglang_questions import SGLangQuestions

MESSAGES: Any = [{"role": "user", "content": "hello there"}]
# what the random models' template and tokenizer make of it
RENDERED = "<user>hello there<assistant>"
COLOUR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "level": {"type": "integer", "minimum": 0, "maximum": 9},
        "on": {"type": "boolean"},
        "colour": {"enum": ["red", "green"]},
    },
    "required": ["level", "on", "colour"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "paint", "strict": True, "parameters": COLOUR}}]
PAINT: Any = {"type": "function", "function": {"name": "paint"}}


@pytest.fixture
def sync_client(deployment: Deployment) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{deployment.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(deployment: Deployment) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(models: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models / "llama-base")


@pytest.fixture(scope="module")
def greedy_text(tokenizer: Any, task_references: dict[str, Reference]) -> Any:
    """Return the text of the reference's answer to a rendered prompt."""

    def text(task: str, prompt: str, length: int) -> str:
        tokens = task_references[task].answer(tokenizer.encode(prompt, add_special_tokens=False), length)
        end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else length
        return str(tokenizer.decode(tokens[:end], skip_special_tokens=True))

    return text


# --- the openai package ---------------------------------------------------------------------------------------------


def test_openai_lists_the_tasks_as_models(sync_client: openai.OpenAI) -> None:
    names = [model.id for model in sync_client.models.list()]
    assert {"llama-a", "llama-b", "qwen3-a"} <= set(names)
    assert sync_client.models.retrieve("llama-b").id == "llama-b"
    with pytest.raises(openai.NotFoundError, match="no task is named"):
        sync_client.models.retrieve("llama-z")


def test_openai_chat(sync_client: openai.OpenAI, greedy_text: Any) -> None:
    for task in ("llama-a", "llama-b", "qwen3-a"):
        reply = sync_client.chat.completions.create(model=task, messages=MESSAGES, max_tokens=12, temperature=0)
        assert reply.model == task
        assert reply.choices[0].message.content == greedy_text(task, RENDERED, 12)
        assert reply.usage is not None
        # a byte a token, and the two of the template
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len("hello there") + 2, 12)
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12


def test_openai_completions_of_a_list(sync_client: openai.OpenAI, greedy_text: Any) -> None:
    prompts = ["one", "two and", "three"]
    reply = sync_client.completions.create(model="llama-b", prompt=prompts, n=2, max_tokens=6, temperature=0)
    assert [c.index for c in reply.choices] == list(range(6))
    assert [c.text for c in reply.choices] == [greedy_text("llama-b", p, 6) for p in prompts for _ in range(2)]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == sum(map(len, prompts))
    assert reply.usage.completion_tokens == 6 * 6
    assert reply.usage.total_tokens == sum(map(len, prompts)) + 6 * 6


def test_openai_streams_what_it_answers_whole(sync_client: openai.OpenAI, greedy_text: Any) -> None:
    chunks = list(
        sync_client.chat.completions.create(
            model="llama-a",
            messages=MESSAGES,
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [c.choices[0] for c in chunks if c.choices]
    assert "".join(c.delta.content or "" for c in choices) == greedy_text("llama-a", RENDERED, 16)
    assert [c.finish_reason for c in choices if c.finish_reason] == ["length"]
    usage = chunks[-1].usage
    assert usage is not None
    assert chunks[-1].choices == []
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (13, 16, 29)
    assert [c.usage for c in chunks[:-1] if c.usage] == []


def test_openai_stream_has_no_usage_unless_asked(sync_client: openai.OpenAI) -> None:
    chunks = list(sync_client.completions.create(model="llama-a", prompt="abc", max_tokens=4, stream=True))
    assert all(c.usage is None and c.choices for c in chunks)


async def test_openai_async_clients_of_two_tasks_at_once(async_client: openai.AsyncOpenAI, greedy_text: Any) -> None:
    async def streamed(task: str, i: int) -> str:
        parts = await async_client.chat.completions.create(
            model=task,
            messages=[{"role": "user", "content": f"number {i}"}],
            max_tokens=20,
            temperature=0,
            stream=True,
        )
        return "".join([c.choices[0].delta.content or "" async for c in parts])

    asked = [("llama-a" if i % 2 else "llama-b", i) for i in range(8)]
    answers = await gather(*(streamed(task, i) for task, i in asked))
    assert answers == [greedy_text(task, f"<user>number {i}<assistant>", 20) for task, i in asked]


async def test_openai_streams_several_choices(async_client: openai.AsyncOpenAI, greedy_text: Any) -> None:
    parts = await async_client.chat.completions.create(
        model="llama-a", messages=MESSAGES, n=3, max_tokens=8, temperature=0, stream=True
    )
    texts = ["", "", ""]
    async for chunk in parts:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [greedy_text("llama-a", RENDERED, 8)] * 3


def test_openai_n_samples_differ(sync_client: openai.OpenAI) -> None:
    reply = sync_client.chat.completions.create(
        model="llama-a", messages=MESSAGES, n=3, max_tokens=12, temperature=1, extra_body={"ignore_eos": True}
    )
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert len({c.message.content for c in reply.choices}) == 3
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (13, 36)


def test_openai_json_schema(sync_client: openai.OpenAI) -> None:
    """The models have random weights: only the constraint, on both workers, makes the answer valid."""
    for task in ("llama-a", "llama-b", "qwen3-a"):
        reply = sync_client.chat.completions.create(
            model=task,
            messages=MESSAGES,
            max_tokens=200,
            temperature=0,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "light", "schema": COLOUR, "strict": True},
            },
        )
        assert reply.choices[0].finish_reason == "stop"
        validate(json.loads(reply.choices[0].message.content or ""), COLOUR)


@pytest.mark.parametrize("choice", ["required", PAINT])
def test_openai_tools(sync_client: openai.OpenAI, choice: Any) -> None:
    reply = sync_client.chat.completions.create(
        model="llama-a", messages=MESSAGES, max_tokens=120, temperature=0, tools=TOOLS, tool_choice=choice
    )
    calls: Any = reply.choices[0].message.tool_calls
    assert calls[0].function.name == "paint"
    validate(json.loads(calls[0].function.arguments), COLOUR)


def test_openai_tools_in_a_stream(sync_client: openai.OpenAI) -> None:
    chunks = sync_client.chat.completions.create(
        model="llama-a", messages=MESSAGES, max_tokens=120, temperature=0, tools=TOOLS, tool_choice=PAINT, stream=True
    )
    name, arguments = "", ""
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
            if call.index == 0 and call.function is not None:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == "paint"
    validate(json.loads(arguments), COLOUR)


def test_openai_tools_left_to_the_model(sync_client: openai.OpenAI) -> None:
    """`auto` and `none` constrain nothing: a random model answers with text."""
    choices: Any = ("auto", "none")
    for choice in choices:
        reply: Any = sync_client.chat.completions.create(
            model="llama-a",
            messages=MESSAGES,
            max_tokens=8,
            temperature=0,
            tools=[{"type": "function", "function": {"name": "paint", "parameters": COLOUR}}],
            tool_choice=choice,
        )
        assert reply.choices[0].message.tool_calls is None
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 8


def test_openai_logprobs(sync_client: openai.OpenAI) -> None:
    reply = sync_client.chat.completions.create(
        model="llama-a", messages=MESSAGES, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    assert reply.choices[0].logprobs is not None
    tokens = reply.choices[0].logprobs.content or []
    assert len(tokens) == 6
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob, "greedy: the likeliest"
        assert 0 > token.top_logprobs[0].logprob > token.top_logprobs[1].logprob > token.top_logprobs[2].logprob
    completion = sync_client.completions.create(model="llama-a", prompt="abc", max_tokens=5, temperature=0, logprobs=2)
    given = completion.choices[0].logprobs
    assert given is not None
    assert len(given.token_logprobs or ()) == len(given.top_logprobs or ()) == 5


def test_openai_stop_strings(sync_client: openai.OpenAI, greedy_text: Any) -> None:
    whole = greedy_text("llama-a", RENDERED, 24)
    # a character that comes late enough, and that is whole in itself
    at = next(i for i, c in enumerate(whole) if i > 3 and c.isascii() and c not in whole[:i])
    reply = sync_client.chat.completions.create(
        model="llama-a", messages=MESSAGES, max_tokens=24, temperature=0, stop=[whole[at]]
    )
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content == whole[:at]
    assert reply.usage is not None
    assert reply.usage.completion_tokens < 24


def test_openai_errors(sync_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no task is named `gpt-4`; tasks: llama-a, llama-b"):
        sync_client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="at most 2041") as refused:
        sync_client.completions.create(model="llama-a", prompt="x" * 2100)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        sync_client.completions.create(model="llama-a", prompt="x", temperature=-1)
    with pytest.raises(openai.BadRequestError, match="messages"):
        sync_client.chat.completions.create(model="llama-a", messages=[])


# --- curl, as in SGLang's documentation -----------------------------------------------------------------------------


@pytest.fixture
def curl(deployment: Deployment) -> Any:
    """Run a command of the documentation, against this router."""

    def run(command: str) -> str:
        command = command.replace("localhost:30000", deployment.url.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_curl_generate(curl: Any, greedy_text: Any) -> None:
    prompt = "The capital of France is"
    reply = json.loads(
        curl(
            """curl -s http://localhost:30000/generate -H "Content-Type: application/json" -d '{"""
            f'''"model": "llama-a", "text": "{prompt}", "sampling_params": {{"temperature": 0, "max_new_tokens": 16}}'''
            "}'"
        )
    )
    assert reply["text"] == greedy_text("llama-a", prompt, 16)
    assert reply["meta_info"]["completion_tokens"] == len(reply["output_ids"]) <= 16


def test_curl_generate_streamed(curl: Any, greedy_text: Any) -> None:
    lines = curl(
        """curl -sN http://localhost:30000/generate -H "Content-Type: application/json" -d '{
            "model": "llama-b", "text": "Once upon a time,", "stream": true,
            "sampling_params": {"temperature": 0, "max_new_tokens": 16}}'"""
    ).splitlines()
    data = [line.removeprefix("data: ") for line in lines if line]
    assert data[-1] == "[DONE]"
    assert json.loads(data[-2])["text"] == greedy_text("llama-b", "Once upon a time,", 16)


def test_curl_chat(curl: Any, greedy_text: Any) -> None:
    reply = json.loads(
        curl(
            """curl -s http://localhost:30000/v1/chat/completions \
  -H "Content-Type: application/json" \
  -d '{"model": "llama-a", "max_tokens": 16, "temperature": 0,
       "messages": [{"role": "user", "content": "What is the capital of France?"}]}'"""
        )
    )
    assert reply["choices"][0]["message"]["content"] == greedy_text(
        "llama-a", "<user>What is the capital of France?<assistant>", 16
    )


def test_curl_looks_at_the_server(curl: Any, models: Path) -> None:
    status = "curl -s -o /dev/null -w '%{http_code}' http://localhost:30000/"
    assert curl(f"{status}health") == "200"
    assert curl(f"{status}health_generate") == "200"
    for path in ("get_model_info", "model_info"):
        info = json.loads(curl(f"curl -s http://localhost:30000/{path}"))
        assert info["model_path"] == str(models / "llama-a")
        assert info["is_generation"] is True
    for path in ("get_server_info", "server_info"):
        info = json.loads(curl(f"curl -s http://localhost:30000/{path}"))
        assert {w["disaggregation_mode"] for w in info["decode"]} == {"decode"}
        assert {w["disaggregation_mode"] for w in info["prefill"]} == {"prefill"}
        assert len(info["internal_states"]) == len(info["decode"])
    assert curl(f"{status}no_such_page") == "404"


def test_curl_flushes_the_caches(curl: Any) -> None:
    ask = """curl -s http://localhost:30000/generate -H "Content-Type: application/json" -d '{
        "model": "llama-a", "text": "a prompt that is in the cache", "sampling_params": {"max_new_tokens": 2}}'"""
    curl(ask)
    assert json.loads(curl(ask))["meta_info"]["cached_tokens"] > 0
    assert "Cache flushed" in curl("curl -s -X POST 'http://localhost:30000/flush_cache?timeout=10'")
    assert json.loads(curl(ask))["meta_info"]["cached_tokens"] == 0


# --- sglang.bench_serving -------------------------------------------------------------------------------------------

BENCHMARKED = {
    "sglang": ["--header", "X-Sun-Task=llama-a"],
    "sglang-oai": ["--served-model-name", "llama-a"],
    "sglang-oai-chat": ["--served-model-name", "llama-b"],
}


async def test_bench_serving(
    deployment: Deployment,
    client: httpx.AsyncClient,
    models: Path,
    tmp_path: Path,
    ask_sglang: SGLangQuestions,
) -> None:
    def arguments(backend: str) -> list[str]:
        common = f"--base-url {deployment.url} --backend {backend} --dataset-name random-ids --num-prompts 6"
        lengths = "--random-input-len 32 --random-output-len 8 --random-range-ratio 1 --warmup-requests 1"
        output = f"--output-details --output-file {tmp_path / backend}.jsonl --model {models / 'llama-a'}"
        return [*f"{common} {lengths} {output} --flush-cache --disable-tqdm".split(), *BENCHMARKED[backend]]

    before = await metric(client, "sun_requests_total", outcome="ok")
    commands = [arguments(backend) for backend in BENCHMARKED]
    await asyncio.to_thread(ask_sglang, "tests.engine.answers:run_bench_serving", commands)
    for backend in BENCHMARKED:
        result = json.loads((tmp_path / f"{backend}.jsonl").read_text())
        assert result["completed"] == 6, result
        assert result["errors"] == [""] * 6
        assert result["output_lens"] == [8] * 6
        assert result["total_output_tokens"] == 48
        assert all(t > 0 for t in result["ttfts"])
    assert await metric(client, "sun_requests_total", outcome="ok") - before == len(BENCHMARKED) * 7
