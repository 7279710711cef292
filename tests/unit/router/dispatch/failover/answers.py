"""Streams of every endpoint, over a deployment whose decode workers are lost."""

from __future__ import annotations

import asyncio
from asyncio import Task
from typing import Any, NamedTuple

import orjson

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.protocol.sse import EventFramer, event_data
from tests.unit.router.conftest import Start, System
from tests.unit.router.fake_worker import FakeWorker, Fault

TASKS = {"math": ("math", "base")}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CHAT = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6}
TEXT = {"model": "math", "prompt": "hello", "max_tokens": 6}
GENERATE = {"model": "math", "input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 6}}


class Case(NamedTuple):
    """A streamed request."""

    path: str
    body: dict[str, Any]


CASES = {
    "generate": Case("/generate", GENERATE),
    "generate logprobs": Case("/generate", {**GENERATE, "return_logprob": True, "logprob_start_len": 0, "rid": "mine"}),
    "generate list": Case("/generate", {**GENERATE, "input_ids": [[5, 6, 7], [8, 9]]}),
    "text": Case("/v1/completions", {**TEXT, "stream_options": {"include_usage": True}}),
    "text echo": Case("/v1/completions", {**TEXT, "echo": True, "logprobs": 1}),
    "text n": Case("/v1/completions", {**TEXT, "n": 2, "stream_options": {"include_usage": True}}),
    "text list": Case("/v1/completions", {**TEXT, "prompt": ["hello", "you"]}),
    "chat": Case("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}}),
    "chat n": Case("/v1/chat/completions", {**CHAT, "n": 3}),
    "chat tools": Case("/v1/chat/completions", {**CHAT, "tools": [TOOL]}),
    "messages": Case("/v1/messages", CHAT),
    "responses": Case("/v1/responses", {"model": "math", "input": "hi", "max_output_tokens": 6}),
}


async def begin(start: Start, decode: int = 2, **more: Any) -> System:
    """Start a task with one prefill worker and some decode workers."""
    system: System = await start(TASKS, {"math": 1, "base": decode}, **more)
    return system


def decoders(system: System) -> list[FakeWorker]:
    return [worker for worker in system.workers.values() if worker.role == "decode"]


def break_one(system: System, fault: Fault) -> None:
    """Give a fault to the decode workers that get the next requests, as often as it says, for all together."""
    for worker in decoders(system):
        worker.fault = fault


async def repair(system: System) -> None:
    """Restart every decode worker that died, and wait until all of them serve."""
    for worker in decoders(system):
        worker.fault = None
        if worker._listener.is_serving():
            continue
        await worker.restart()
    await wait_until(lambda: len(system.router.registry.usable("math")) == len(decoders(system)))


async def raw(system: System, path: str, body: dict[str, Any]) -> bytes:
    async with system.client.post(path, json={**body, "stream": True}) as r:
        assert r.status == 200, await r.text()
        return await r.read()


def shown(stream: bytes) -> dict[int, dict[str, Any]]:
    """Return what each answer of a stream shows its client, apart from ids and times; events may be divided anyhow."""
    answers: dict[int, dict[str, Any]] = {}
    for block in EventFramer().feed(stream):
        assert not block.startswith(b":"), "no comment reaches a client"
        data = event_data(block)
        if data == b"[DONE]":
            answers[-1] = {"done": answers.get(-1, {}).get("done", 0) + 1, **answers.get(-1, {})}
            continue
        _add(answers, orjson.loads(data))
    for answer in answers.values():
        assert len(answer.pop("ids", {0})) == 1, "an answer has one id"
    return answers


def _add(answers: dict[int, dict[str, Any]], event: dict[str, Any]) -> None:
    assert "error" not in event, event
    if "meta_info" in event:
        answer = answers.setdefault(event.get("index", 0), {"ids": set()})
        answer["ids"].add(event["meta_info"].pop("id"))
        answer["last"] = event
    elif "choices" not in event:
        _add_translated(answers.setdefault(0, {}), event)
    else:
        for choice in event["choices"]:
            answer = answers.setdefault(choice["index"], {"ids": set()})
            answer["ids"].add(event["id"])
            _add_choice(answer, choice)
        if not event["choices"]:
            answers[-1] = {**answers.get(-1, {}), "usage": event["usage"]}


def _add_choice(answer: dict[str, Any], choice: dict[str, Any]) -> None:
    delta = choice.get("delta", choice)
    for name in ("role", "content", "reasoning_content", "text"):
        if delta.get(name) is not None:
            answer[name] = answer.get(name, "") + delta[name]
    for call in delta.get("tool_calls", ()):
        known = answer.setdefault(f"call {call['index']}", {"id": 0, "name": "", "arguments": ""})
        # an id is random in each run, and comes once
        known["id"] += call["id"] is not None
        for name, value in call["function"].items():
            known[name] += value or ""
    for name, column in (choice.get("logprobs") or {}).items():
        answer[name] = [*answer.get(name, []), *column]
    if choice["finish_reason"] is not None:
        answer["finish"] = [*answer.get("finish", []), choice["finish_reason"]]


def _add_translated(answer: dict[str, Any], event: dict[str, Any]) -> None:
    """Add an event of another API: its text, and its kind unless that is the kind of the event before."""
    kind, delta = event["type"], event.get("delta")
    text = delta.get("text") if isinstance(delta, dict) else delta
    if isinstance(text, str):
        answer["text"] = answer.get("text", "") + text
    if answer.setdefault("kinds", [kind])[-1] != kind:
        answer["kinds"].append(kind)


async def hang(system: System, path: str, body: dict[str, Any], after: int = 3) -> tuple[FakeWorker, Task[bytes]]:
    """Send a streamed request, and return the decode worker that has it after some tokens, and the client."""
    break_one(system, Fault(hang_after=after, times=1))
    asked = asyncio.create_task(raw(system, path, body))
    await wait_until(lambda: any(worker.hanging for worker in decoders(system)))
    break_one(system, Fault(times=0))
    return next(worker for worker in decoders(system) if worker.hanging), asked
