"""Streamed requests of every kind, and what a client has of their answers in the end."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from sun_sglang.router.protocol.sse import EventFramer, event_data

# the last event's time and the longest pause between two events are measured on this clock
now = time.monotonic
_WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@dataclass
class Answer:
    """One answer, as its stream told it.

    Attributes:
        text: its text: of `/generate`, of a completion, or the content of a chat.
        ids: its token ids, where the stream has them.
        calls: name and arguments of each tool call, by its index.
        logprobs: the tokens whose log probabilities it has.
        ends: the finish reasons.
        roles: events that state a role.
        names: ids of its events, with their times of creation; the answers of one request may begin at other times.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    calls: dict[int, str] = field(default_factory=dict)
    logprobs: list[Any] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)
    roles: int = 0
    names: set[tuple[str, int]] = field(default_factory=set, compare=False)


@dataclass
class Stream:
    """One streamed request.

    Attributes:
        path: its endpoint.
        body: its body.
        answers: its answers by index.
        usage: tokens of prompt and answer, as the stream told them last.
        events: how many have arrived.
        error: the error that ended it; None for none.
        silence: longest pause between two events, in seconds.
        complete: it ended with `[DONE]`.
    """

    path: str
    body: dict[str, Any]
    answers: dict[int, Answer] = field(default_factory=dict)
    usage: Any = None
    events: int = 0
    error: Any = None
    silence: float = 0.0
    complete: bool = False

    def again(self) -> Stream:
        """Return the same request, not yet sent."""
        return Stream(self.path, self.body)

    async def run(self, client: aiohttp.ClientSession) -> Stream:
        """Send it, read its stream to the end, and return it.

        Raises:
            AssertionError: an event has no data, or a text that was sent changes.
        """
        last = now()
        async with client.post(self.path, json=self.body) as reply:
            if reply.status != 200:
                self.error = (await reply.json())["error"]
                return self
            async for data in _events(reply):
                if self.events:
                    self.silence = max(self.silence, now() - last)
                last = now()
                if data == b"[DONE]":
                    self.complete = True
                else:
                    self._add(json.loads(data))
        return self

    def same_as(self, other: Stream) -> bool:
        """Return whether a client has the same of both: texts, calls, tokens, ends and usage, each under one name."""
        is_one = all(len(answer.names) == 1 for answer in self.answers.values())
        return is_one and (self.answers, self.usage, self.complete) == (other.answers, other.usage, other.complete)

    def _add(self, event: dict[str, Any]) -> None:
        self.events += 1
        if "error" in event:
            self.error = event["error"]
        elif self.path == "/generate":
            answer, meta = self.answers.setdefault(event.get("index", 0), Answer()), event["meta_info"]
            answer.names.add((meta["id"], 0))
            assert event["text"].startswith(answer.text), "a text that the client has changes"
            answer.text, answer.ids, answer.ends = event["text"], event["output_ids"], [meta["finish_reason"]]
            self.usage = meta["prompt_tokens"], {**(self.usage[1] if self.usage else {})}
            self.usage[1][event.get("index", 0)] = meta["completion_tokens"]
        else:
            if usage := event.get("usage"):
                self.usage = usage["prompt_tokens"], usage["completion_tokens"]
            for choice in event["choices"]:
                answer = self.answers.setdefault(choice["index"], Answer())
                answer.names.add((event["id"], event["created"]))
                _add_choice(answer, choice)


def have_brought(running: Sequence[Stream], events: int) -> bool:
    """Return whether streams have brought half as many events as if each had brought so many."""
    return sum(stream.events for stream in running) >= events * len(running) / 2


def make_streams(tasks: Sequence[str], seed: int, count: int, length: int) -> list[Stream]:
    """Return greedy requests of every kind, for each task in turn.

    They differ in endpoint, number of answers, lists of prompts, log probabilities, penalties, grammars and tools.

    Args:
        tasks: names of tasks; the models have a vocabulary of bytes.
        seed: of the prompts.
        count: how many.
        length: most tokens of an answer.
    """
    made = []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        prompt = [rng.randrange(5, 260) for _ in range(rng.randint(3, 60))]
        task = tasks[number % len(tasks)]
        sampling = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}
        generate: dict[str, Any] = {"model": task, "stream": True, "sampling_params": sampling}
        openai: dict[str, Any] = {"model": task, "temperature": 0, "max_tokens": length, "ignore_eos": True}
        openai |= {"stream": True, "stream_options": {"include_usage": True}}
        chat = openai | {"messages": [{"role": "user", "content": f"{seed} {number} hello"}]}
        schema = {"type": "object", "properties": {"text": {"type": "string", "minLength": length}}}
        json_schema = {"type": "json_schema", "json_schema": {"name": "text", "schema": schema}}
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("/generate", generate | {"input_ids": prompt}),
            ("/v1/completions", openai | {"prompt": prompt, "logprobs": 1}),
            ("/v1/chat/completions", chat),
            ("/generate", generate | {"input_ids": [prompt, prompt[::-1]]}),
            ("/v1/completions", openai | {"prompt": prompt, "n": 2, "echo": True}),
            ("/v1/chat/completions", chat | {"logprobs": True, "frequency_penalty": 0.5}),
            ("/v1/chat/completions", chat | {"tools": [_WEATHER], "tool_choice": "required"}),
            ("/v1/chat/completions", chat | {"response_format": json_schema}),
        ]
        made.append(Stream(*kinds[number % len(kinds)]))
    return made


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the data of every event. An event that has anything else is a defect, such as a comment line."""
    framer = EventFramer()
    async for piece in reply.content.iter_any():
        for event in framer.feed(piece):
            assert event.startswith(b"data: "), event[:80]
            yield event_data(event)
    assert not framer.rest, framer.rest[:80]


def _add_choice(answer: Answer, choice: dict[str, Any]) -> None:
    delta = choice.get("delta", choice)
    answer.text += delta.get("text") or delta.get("content") or ""
    answer.roles += bool(delta.get("role"))
    for call in delta.get("tool_calls") or ():
        more = (call["function"].get("name") or "") + (call["function"].get("arguments") or "")
        answer.calls[call["index"]] = answer.calls.get(call["index"], "") + more
    if (logprobs := choice.get("logprobs")) is not None:
        answer.logprobs += logprobs.get("tokens") or [one["token"] for one in logprobs.get("content") or ()]
    if choice["finish_reason"]:
        answer.ends.append(choice["finish_reason"])
