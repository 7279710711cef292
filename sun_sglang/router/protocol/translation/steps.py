"""A chat completion, whole or a chunk of a stream, as a sequence of steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sun_sglang.router.protocol.worker_replies import count_at, token_counts


class Reasoning(NamedTuple):
    """More of the model's reasoning."""

    text: str


class Text(NamedTuple):
    """More of the answer's text.

    Attributes:
        text: the text.
        logprobs: OpenAI's entries for its tokens; empty if the client asked for none.
    """

    text: str
    logprobs: tuple[dict[str, Any], ...] = ()


class Call(NamedTuple):
    """A call of a tool, or more of its arguments.

    Attributes:
        number: of the call, from 0.
        id: the call's id; empty after the call's first step.
        name: the function; empty after the call's first step.
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


Step = Reasoning | Text | Call | Finish | Usage


def read_steps(answer: Mapping[str, Any]) -> Iterator[Step]:
    """Yield the steps of a whole chat completion, or of one chunk of a stream.

    Args:
        answer: a worker's reply (`worker_replies.parse_result`). A member that has not OpenAI's type is left out.
    """
    for choice in answer.get("choices") or ():
        delta = choice.get("delta") or choice.get("message")
        if isinstance(delta, dict):
            yield from _of_delta(delta, choice.get("logprobs"))
        if reason := _text(choice.get("finish_reason")):
            matched = choice.get("matched_stop")
            yield Finish(reason, matched if isinstance(matched, str) else None)
    if isinstance(usage := answer.get("usage"), dict):
        counts = token_counts(usage)
        reasoning = count_at(usage, "reasoning_tokens") or count_at(
            usage.get("completion_tokens_details"), "reasoning_tokens"
        )
        yield Usage(counts.prompt, counts.completion, counts.cached, reasoning)


def _of_delta(delta: Mapping[str, Any], logprobs: object) -> Iterator[Step]:
    if reasoning := _text(delta.get("reasoning_content")):
        yield Reasoning(reasoning)
    if text := _text(delta.get("content")):
        entries = logprobs.get("content") if isinstance(logprobs, dict) else None
        yield Text(text, tuple(entries) if isinstance(entries, list) else ())
    calls = delta.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            index = call.get("index")
            yield Call(
                index if isinstance(index, int) else position,
                _text(call.get("id")),
                _text(function.get("name")),
                _text(function.get("arguments")),
            )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
