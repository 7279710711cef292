"""One streamed request through the OpenAI API, with its latencies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI


@dataclass(frozen=True)
class Completion:
    """A streamed answer and its latencies.

    Attributes:
        text: the whole text.
        ttft: seconds from sending the request to the first piece of text.
        tpot: mean seconds per token after the first; None for an answer of one token.
        tokens: output tokens, as the server counts them.
    """

    text: str
    ttft: float
    tpot: float | None
    tokens: int


async def stream_completion(client: AsyncOpenAI, task: str, messages: Sequence[Any], max_tokens: int) -> Completion:
    """Send one greedy request and time the pieces of its answer.

    Args:
        client: a client of the router.
        task: name of the task, which is the request's model.
        messages: the conversation.
        max_tokens: most tokens of the answer.

    Raises:
        openai.APIError: the request or its stream failed.
        RuntimeError: the stream ended without text or without its token count.
    """
    sent = time.perf_counter()
    stream = await client.chat.completions.create(
        model=task,
        messages=list(messages),
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces: list[str] = []
    first = last = 0.0
    tokens = 0
    async for chunk in stream:
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
        if chunk.choices and chunk.choices[0].delta.content:
            last = time.perf_counter()
            first = first or last
            pieces.append(chunk.choices[0].delta.content)
    if not pieces or not tokens:
        raise RuntimeError(f"task `{task}` streamed {len(pieces)} pieces and counted {tokens} tokens")
    # the last token often ends the answer and has no text: only tokens with text are timed
    tpot = (last - first) / (len(pieces) - 1) if len(pieces) > 1 else None
    return Completion("".join(pieces), first - sent, tpot, tokens)
