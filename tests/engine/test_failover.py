"""Decode workers that are killed, frozen, emptied and restarted under streams: every answer equals an unbroken one."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import sun_command
from tests.engine.conftest import ADAPTERS, BUSY, Deployment, Reference, end, events_of, gather, launch, some_tokens
from tests.engine.precision import PRECISION
from tests.engine.watch import SOON, is_whole, metric

LENGTH = 60
DECODERS = ("base-0", "base-1")
TOPOLOGY: dict[str, Any] = {
    "pools": {
        "base": {"role": "decode", "model": "./llama-base", "replicas": 2},
        "a": {"role": "prefill", "model": "./llama-a", "engine": ADAPTERS},
        "last": {"role": "prefill", "model": "./llama-last-b"},
    },
    "tasks": {
        "a": {"prefill": "a", "decode": "base"},
        "adapter": {"prefill": "a", "decode": "base", "adapter": "./adapter-part"},
        "last": {"prefill": "last", "decode": "base"},
        "plain": {"prefill": "a", "decode": "base", "failover": False},
    },
    "engine": {"dtype": PRECISION.dtype, "max_total_tokens": 16384, "tool_call_parser": "llama3"},
    "router": {"port": 0, "first_token_timeout": BUSY},
}
TASKS = ("a", "adapter", "last")
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@dataclass
class Answer:
    """What a client made of one answer's stream."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    calls: dict[int, str] = field(default_factory=dict)
    logprobs: list[Any] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)
    roles: int = 0


@dataclass
class Stream:
    """One streamed request, and its answers by index."""

    path: str
    body: dict[str, Any]
    answers: dict[int, Answer] = field(default_factory=dict)
    usage: Any = None
    names: set[tuple[str, int]] = field(default_factory=set)
    events: int = 0
    error: Any = None

    def again(self) -> Stream:
        return Stream(self.path, self.body)

    async def run(self, client: httpx.AsyncClient) -> Stream:
        data = ""
        async for data in events_of(client, self.path, self.body):
            if data != "[DONE]":
                self.add(json.loads(data))
        assert self.error or data == "[DONE]"
        return self

    def add(self, event: dict[str, Any]) -> None:
        self.events += 1
        if "error" in event:
            self.error = event["error"]
        elif self.path == "/generate":
            answer = self.answers.setdefault(event.get("index", 0), Answer())
            meta = event["meta_info"]
            self.names.add((meta["id"], 0))
            assert event["text"].startswith(answer.text)
            answer.text, answer.ids, answer.ends = event["text"], event["output_ids"], [meta["finish_reason"]]
            self.usage = meta["completion_tokens"], meta["prompt_tokens"]
        else:
            self.names.add((event["id"], event["created"]))
            self.usage = event.get("usage") and {k: event["usage"][k] for k in ("prompt_tokens", "completion_tokens")}
            for choice in event["choices"]:
                self._add_choice(self.answers.setdefault(choice["index"], Answer()), choice)

    @staticmethod
    def _add_choice(answer: Answer, choice: dict[str, Any]) -> None:
        delta = choice.get("delta", choice)
        answer.text += delta.get("text") or delta.get("content") or ""
        answer.roles += bool(delta.get("role"))
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            answer.calls[call["index"]] = (
                answer.calls.get(call["index"], "") + (function.get("name") or "") + (function.get("arguments") or "")
            )
        if (logprobs := choice.get("logprobs")) is not None:
            answer.logprobs += logprobs.get("tokens") or [one["token"] for one in logprobs.get("content") or ()]
        if choice["finish_reason"]:
            answer.ends.append(choice["finish_reason"])


def streams(seed: int, count: int) -> list[Stream]:
    """Return requests of every kind: endpoints, tasks, several answers, lists, log probabilities, grammars, tools."""
    made = []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        task, prompt = TASKS[number % 3], some_tokens(seed * 1000 + number, rng.randint(3, 60))
        sampling = {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True}
        openai = {"model": task, "temperature": 0, "max_tokens": LENGTH, "ignore_eos": True, "stream": True}
        openai["stream_options"] = {"include_usage": True}
        message = {"messages": [{"role": "user", "content": f"{seed} {number} hello"}]}
        generate = {"model": task, "stream": True, "sampling_params": sampling}
        schema = {"type": "object", "properties": {"text": {"type": "string", "minLength": LENGTH}}}
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("/generate", generate | {"input_ids": prompt}),
            ("/v1/completions", openai | {"prompt": prompt, "logprobs": 1}),
            ("/v1/chat/completions", openai | message),
            ("/generate", generate | {"input_ids": [prompt, prompt[::-1]]}),
            ("/v1/completions", openai | {"prompt": prompt, "n": 2, "echo": True}),
            ("/v1/chat/completions", openai | message | {"logprobs": True, "frequency_penalty": 0.5}),
            ("/v1/chat/completions", openai | message | {"tools": [WEATHER], "tool_choice": "required"}),
            (
                "/v1/chat/completions",
                openai
                | message
                | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
            ),
        ]
        made.append(Stream(*kinds[number % len(kinds)]))
    return made


@pytest.fixture(scope="module")
def failing(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    file = models / "failover.yaml"
    file.write_text(yaml.safe_dump(TOPOLOGY, sort_keys=False))
    launched = launch(file, tmp_path_factory.mktemp("run"))
    yield launched
    end(launched)


@pytest.fixture
async def asked(failing: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=failing.url, timeout=BUSY, headers=failing.headers) as client:
        await wait_until(lambda: is_whole(client, failing), within=BUSY)
        yield client


def same(broken: Stream, unbroken: Stream) -> bool:
    """Assert what holds of every stream, and return whether a client has the same as without a loss."""
    assert broken.error is None, broken.error
    if broken.path != "/generate" or "n" not in broken.body:
        assert len(broken.names) == len(unbroken.names), "the ids of a stream stay"
    assert all(answer.roles <= 1 for answer in broken.answers.values())
    return (broken.answers, broken.usage) == (unbroken.answers, unbroken.usage)


async def break_under(
    client: httpx.AsyncClient, made: list[Stream], happen: Callable[[], Any], *, begun: int = 2
) -> list[Stream]:
    """Run streams, let something happen once each has begun, and return them at their end."""
    running = [stream.again() for stream in made]
    tasks = [asyncio.create_task(stream.run(client)) for stream in running]
    await wait_until(lambda: all(s.events >= begun for s in running), "every stream has begun", within=BUSY)
    happened = happen()
    if asyncio.iscoroutine(happened):
        await happened
    await gather(*tasks)
    return running


async def unbroken(client: httpx.AsyncClient, made: list[Stream]) -> list[Stream]:
    return await gather(*(stream.again().run(client) for stream in made))


def require_same(broken: list[Stream], right: list[Stream]) -> None:
    differ = [b.body for b, r in zip(broken, right, strict=True) if not same(b, r)]
    # a batch may decide a tie of two logits differently
    assert len(differ) <= 1, differ


def group_of(deployment: Deployment, name: str) -> int:
    return os.getpgid(deployment.process(name).pid)


async def replays(client: httpx.AsyncClient) -> float:
    return await metric(client, "sun_replays_total")


@pytest.mark.parametrize("victim", DECODERS)
async def test_killed_decode_worker_is_not_noticed_by_readers_of_streams(
    asked: httpx.AsyncClient, failing: Deployment, victim: str
) -> None:
    made = streams(DECODERS.index(victim), 24)
    right, before = await unbroken(asked, made), await replays(asked)
    broken = await break_under(asked, made, lambda: os.killpg(group_of(failing, victim), signal.SIGKILL))
    require_same(broken, right)
    assert await replays(asked) > before, "streams ran on the killed worker"


async def test_greedy_streams_over_a_kill_equal_the_reference(
    asked: httpx.AsyncClient, failing: Deployment, models: Path
) -> None:
    made = [
        Stream(
            "/generate",
            {
                "model": task,
                "input_ids": some_tokens(8100 + number, 5 + number),
                "stream": True,
                "sampling_params": {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True},
            },
        )
        for number, task in enumerate(("a", "last") * 8)
    ]
    broken = await break_under(asked, made, lambda: os.killpg(group_of(failing, "base-0"), signal.SIGKILL))
    references = {
        "a": Reference(models / "llama-a", models / "llama-base"),
        "last": Reference(models / "llama-last-b", models / "llama-base", "decode"),
    }
    for stream in broken:
        assert stream.error is None
        references[stream.body["model"]].check(stream.body["input_ids"], stream.answers[0].ids)
    for reference in references.values():
        reference.require_few_ties()


async def test_frozen_decode_worker_is_not_noticed_by_readers_of_streams(
    asked: httpx.AsyncClient, failing: Deployment
) -> None:
    made = streams(3, 12)
    right, before, group = await unbroken(asked, made), await replays(asked), group_of(failing, "base-0")
    try:
        broken = await break_under(asked, made, lambda: os.killpg(group, signal.SIGSTOP))
    finally:
        os.killpg(group, signal.SIGCONT)
    require_same(broken, right)
    assert await replays(asked) > before


async def test_task_without_failover_gets_one_clear_error(asked: httpx.AsyncClient, failing: Deployment) -> None:
    made = [Stream(s.path, s.body | {"model": "plain"}) for s in streams(4, 12)]
    broken = await break_under(asked, made, lambda: os.killpg(group_of(failing, "base-1"), signal.SIGKILL))
    codes = Counter(stream.error["code"] if stream.error else "ok" for stream in broken)
    assert codes.keys() == {"ok", "stream_broken"}


async def test_drain_with_move_empties_a_worker_and_breaks_nothing(
    asked: httpx.AsyncClient, failing: Deployment
) -> None:
    made = streams(5, 16)
    right = await unbroken(asked, made)

    async def drain() -> None:
        reply = await asked.post("/workers/base-0/drain", json={"move": True})
        assert reply.status_code == 200, reply.text

        async def in_flight() -> int:
            workers = (await asked.get("/tasks")).json()["tasks"]["a"]["decode"]["workers"]
            return int(next(w["in_flight"] for w in workers if w["name"] == "base-0"))

        await wait_until(in_flight, "it is empty", within=SOON, accept=lambda left: left == 0)

    broken = await break_under(asked, made, drain)
    assert (await asked.post("/workers/base-0/resume")).status_code == 200
    require_same(broken, right)


async def test_rolling_restart_of_a_pool_under_streams_breaks_none(
    asked: httpx.AsyncClient, failing: Deployment
) -> None:
    made, done = streams(6, 8), asyncio.Event()
    right = await unbroken(asked, made)
    pids = {name: failing.process(name).pid for name in DECODERS}

    async def keep_asking() -> int:
        rounds = 0
        while not done.is_set():
            require_same(await unbroken(asked, made), right)
            rounds += 1
        return rounds

    load = asyncio.create_task(keep_asking())
    try:
        command = sun_command("workers", "restart", "base", "--run-dir", str(failing.run_dir), "--json")
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), BUSY)
    finally:
        done.set()
    assert await load > 0
    assert process.returncode == 0, output
    assert all(failing.process(name).pid != pids[name] for name in DECODERS)
