"""Streams of one answer as SGLang's endpoints write them, in any division of its tokens into events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sun_sglang.contracts.replay import tokens_comment
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.sse import DONE, EventFramer, event_data

USAGE = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}


@dataclass(frozen=True)
class MadeToken:
    """A token and what it adds to the answer.

    Attributes:
        id: of the token.
        text: that it adds.
        part: the part of a chat message that the text belongs to.
        call: index of the tool call, for its arguments.
    """

    id: int
    text: str
    part: str = "content"
    call: int = 0


@dataclass(frozen=True)
class MadeAnswer:
    """An answer, from which streams are made.

    Attributes:
        tokens: its tokens.
        logprobs: every event has the log probabilities of its tokens.
        counts: every event has the usage so far (`continuous_usage_stats`).
        matched: the stop string, whose last characters the last event takes off.
    """

    tokens: tuple[MadeToken, ...]
    logprobs: bool = False
    counts: bool = False
    matched: str | None = None

    def stream(self, endpoint: Endpoint, rid: str, created: int, sizes: Sequence[int]) -> list[bytes]:
        """Return the event blocks of one run. `sizes` are the tokens of each step; the last step has the rest."""
        blocks: list[bytes] = []
        unreported: list[int] = []
        start, run = 0, _Run(self, endpoint, rid, created)
        steps = [*sizes, len(self.tokens)]
        for size in steps:
            end = min(len(self.tokens), start + size)
            if end == start:
                continue
            unreported += [token.id for token in self.tokens[start:end]]
            for event in run.events(start, end):
                if unreported:
                    event = tokens_comment(unreported) + event
                    unreported = []
                blocks.append(event)
            start = end
        return [*blocks, *run.last(), DONE]


class _Run:
    def __init__(self, answer: MadeAnswer, endpoint: Endpoint, rid: str, created: int) -> None:
        self._answer = answer
        self._endpoint = endpoint
        self._names = {"id": rid, "object": "x", "created": created, "model": "m"}
        self._rid = rid
        self._shown = 0

    def events(self, start: int, end: int) -> list[bytes]:
        tokens, is_last = self._answer.tokens[start:end], end == len(self._answer.tokens)
        if self._endpoint is Endpoint.GENERATE:
            return [self._generate(end, is_last)]
        if self._endpoint is Endpoint.COMPLETIONS:
            text = self._text(end, is_last)
            delta, self._shown = text[self._shown :], max(self._shown, len(text))
            choice = {"index": 0, "text": delta, "logprobs": self._column(tokens), **self._finish(is_last)}
            return [_event({**self._names, "choices": [choice], **self._usage(end)})]
        return self._chat(start, end, is_last)

    def last(self) -> list[bytes]:
        if self._endpoint is Endpoint.GENERATE:
            return []
        return [_event({**self._names, "choices": [], "usage": USAGE})]

    def _chat(self, start: int, end: int, is_last: bool) -> list[bytes]:
        events = [] if start else [self._delta({"reasoning_content": None, "role": "assistant", "content": ""})]
        entries: Any = [{"token": t.text, "logprob": -0.5, "top_logprobs": []} for t in self._answer.tokens[start:end]]
        logprobs = {"content": entries} if self._answer.logprobs else None
        for token, before in zip(self._answer.tokens[start:end], _before(self._answer.tokens, start), strict=False):
            if token.part == "arguments":
                call: dict[str, Any] = {"index": token.call, "type": "function"}
                if before is None or (before.part, before.call) != ("arguments", token.call):
                    named = {**call, "id": f"call-{self._rid}-{token.call}"}
                    function = {"name": f"f{token.call}", "arguments": ""}
                    events.append(self._delta({"tool_calls": [{**named, "function": function}]}, end=end))
                rest = {**call, "id": None, "function": {"name": None, "arguments": token.text}}
                delta: dict[str, Any] = {"tool_calls": [rest]}
            elif token.part == "reasoning":
                delta = {"reasoning_content": token.text}
            else:
                delta = {"reasoning_content": None, "content": token.text}
            events.append(self._delta(delta, logprobs, end=end))
            logprobs = None
        if is_last:
            events.append(self._delta({"reasoning_content": None}, finish=True))
        return events

    def _delta(self, delta: Any, logprobs: Any = None, *, finish: bool = False, end: int | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, **self._finish(finish)}
        return _event({**self._names, "choices": [choice], **(self._usage(end) if end else {})})

    def _generate(self, end: int, is_last: bool) -> bytes:
        reason = {"type": "stop", "matched": self._answer.matched} if is_last else None
        meta: dict[str, Any] = {"id": self._rid, "finish_reason": reason, "completion_tokens": end}
        if self._answer.logprobs:
            meta["output_token_logprobs"] = [[-0.5, t.id, None] for t in self._answer.tokens[:end]]
        ids = [token.id for token in self._answer.tokens[:end]]
        return _event({"text": self._text(end, is_last), "output_ids": ids, "meta_info": meta})

    def _text(self, end: int, is_last: bool) -> str:
        text = "".join(token.text for token in self._answer.tokens[:end])
        return text.removesuffix(self._answer.matched) if is_last and self._answer.matched else text

    def _column(self, tokens: Sequence[MadeToken]) -> Any:
        if not self._answer.logprobs:
            return None
        return {"tokens": [t.text for t in tokens], "token_logprobs": [-0.5] * len(tokens), "top_logprobs": None}

    def _finish(self, is_last: bool) -> dict[str, Any]:
        return {"finish_reason": "stop" if is_last else None, "matched_stop": self._answer.matched if is_last else None}

    def _usage(self, end: int) -> dict[str, Any]:
        return {"usage": {**USAGE, "completion_tokens": end}} if self._answer.counts else {}


def _before(tokens: Sequence[MadeToken], start: int) -> list[MadeToken | None]:
    return [tokens[i - 1] if i else None for i in range(start, len(tokens))]


def _event(data: Any) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def read(stream: bytes) -> dict[str, Any]:
    """Return what a client makes of a stream: the texts joined, the lists joined, and each name that it saw."""
    found: dict[str, Any] = {"ids": set(), "created": set(), "calls": {}, "events": 0, "done": 0}
    for block in EventFramer().feed(stream):
        assert not block.startswith(b":"), "no comment reaches a client"
        if block == DONE:
            found["done"] += 1
            continue
        data = orjson.loads(event_data(block))
        if "meta_info" in data:
            found["ids"].add(data["meta_info"]["id"])
            found["last"] = {**data, "meta_info": {**data["meta_info"]}}
            continue
        found["ids"].add(data["id"])
        found["created"].add(data["created"])
        if not data["choices"]:
            found["usage"] = [*found.get("usage", []), data["usage"]]
            continue
        _read_choice(found, data["choices"][0])
    for call in found["calls"].values():
        del call["id"]
    return found


def _read_choice(found: dict[str, Any], choice: dict[str, Any]) -> None:
    delta = choice.get("delta", choice)
    for name in ("text", "content", "reasoning_content", "role"):
        if delta.get(name) is not None:
            found[name] = found.get(name, "") + delta[name]
    for call in delta.get("tool_calls", ()):
        known = found["calls"].setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
        for name, value in (("id", call["id"]), *call["function"].items()):
            known[name] += value or ""
        # an id is random in each run, and the client must receive a single one
        known["ids"] = known["id"].count("call-")
    for name, column in (choice.get("logprobs") or {}).items():
        if column is not None:
            found[f"logprobs {name}"] = [*found.get(f"logprobs {name}", []), *column]
    if choice["finish_reason"] is not None:
        found["finish"] = [*found.get("finish", []), (choice["finish_reason"], choice["matched_stop"])]
