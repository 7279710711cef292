"""A chat completion, whole or a chunk of a stream, as a sequence of steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

import orjson

from sun_sglang.router.protocol.worker_replies import count_at, token_counts


class Reasoning(NamedTuple):
    """More of the model's reasoning."""

    text: str


class Text(NamedTuple):
    """More of the answer's text.

    Attributes:
        text: the text; empty where the worker sends the logprobs of tokens without their text.
        logprobs: OpenAI's entries for tokens, as JSON joined by commas; empty if the client asked for none. As objects
            they would take five times the memory.
    """

    text: str
    logprobs: bytes = b""


class CallPart(NamedTuple):
    """A call of a tool, or more of its arguments, as the worker sends it.

    Attributes:
        number: the worker's index of the call, or of the tool; two calls may have the same.
        id: the call's id; may be empty after the call's first part.
        name: the function; empty after the call's first part.
        arguments: more of the arguments' JSON.
    """

    number: int
    id: str
    name: str
    arguments: str


class Finish(NamedTuple):
    """The end of the answer.

    Attributes:
        reason: OpenAI's `finish_reason`.
        matched: the stop string that ended the answer; None if none did.
    """

    reason: str
    matched: str | None


class Usage(NamedTuple):
    """Token counts.

    Attributes:
        prompt: tokens of the prompt.
        completion: tokens of the answer, with its reasoning.
        cached: tokens of the prompt that came from a cache.
        reasoning: tokens of the reasoning.
    """

    prompt: int
    completion: int
    cached: int
    reasoning: int


class Head(NamedTuple):
    """The members of a chat completion, or of each chunk, that are no part of the answer.

    Attributes:
        id: its id; `unknown` if it has none.
        created: Unix time, seconds.
        model: its model.
    """

    id: str
    created: int
    model: str


Step = Reasoning | Text | CallPart | Finish | Usage


def read_steps(answer: Mapping[str, Any]) -> Iterator[Step]:
    """Yield the steps of a whole chat completion, or of one chunk of a stream. A translated request has one choice.

    Args:
        answer: a worker's reply (`worker_replies.parse_result`). A member that has not OpenAI's type is left out.
    """
    for choice in answer.get("choices") or ():
        if choice.get("index") in (0, None):
            yield from _of_choice(choice)
    if isinstance(usage := answer.get("usage"), dict):
        counts = token_counts(usage)
        reasoning = count_at(usage, "reasoning_tokens") or count_at(
            usage.get("completion_tokens_details"), "reasoning_tokens"
        )
        yield Usage(counts.prompt, counts.completion, counts.cached, reasoning)


def read_head(answer: Mapping[str, Any]) -> Head:
    """Return the head of a whole chat completion, or of a chunk."""
    created = answer.get("created")
    return Head(
        _text(answer.get("id")) or "unknown", created if type(created) is int else 0, _text(answer.get("model"))
    )


def _of_choice(choice: Mapping[str, Any]) -> Iterator[Step]:
    given = choice.get("delta") or choice.get("message")
    delta = given if isinstance(given, dict) else {}
    if reasoning := _text(delta.get("reasoning_content")):
        yield Reasoning(reasoning)
    text, logprobs = _text(delta.get("content")), _entries(choice.get("logprobs"))
    if text or logprobs:
        yield Text(text, logprobs)
    calls = delta.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            index = call.get("index")
            yield CallPart(
                index if isinstance(index, int) else position,
                _text(call.get("id")),
                _text(function.get("name")),
                _text(function.get("arguments")),
            )
    if reason := _text(choice.get("finish_reason")):
        matched = choice.get("matched_stop")
        yield Finish(reason, matched if isinstance(matched, str) else None)


def _entries(logprobs: object) -> bytes:
    given = logprobs.get("content") if isinstance(logprobs, dict) else None
    entries = [entry for entry in given if _is_entry(entry)] if isinstance(given, list) else []
    return orjson.dumps(entries)[1:-1]


def _is_entry(entry: object) -> bool:
    if not _is_token(entry):
        return False
    others = entry.get("top_logprobs")
    return isinstance(others, list) and all(map(_is_token, others))


def _is_token(entry: object) -> TypeGuard[dict[str, Any]]:
    """Return whether an entry has the members that clients' types require."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("token"), str)
        and isinstance(entry.get("logprob"), int | float)
        and isinstance(entry.get("bytes"), list)
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
