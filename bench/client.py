"""One streamed request through the OpenAI API, with the times that serving is judged by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI


@dataclass(frozen=True)
class Completion:
    """One streamed answer.

    Attributes:
        text: all of it.
        ttft: seconds from sending the request to the first piece of text.
        tpot: mean seconds a token after the first; None for an answer of one token.
        tokens: output tokens, by the server's own count.
    """

    text: str
    ttft: float
    tpot: float | None
    tokens: int


async def ask(client: AsyncOpenAI, task: str, messages: Sequence[Any], max_tokens: int) -> Completion:
    """Ask a task greedily and time the pieces of its answer.

    Raises:
        openai.APIError: the request failed, or its stream did.
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
    # the last token often ends the answer and brings no text: what is timed is the tokens that did
    tpot = (last - first) / (len(pieces) - 1) if len(pieces) > 1 else None
    return Completion("".join(pieces), first - sent, tpot, tokens)
