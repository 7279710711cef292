"""Log probabilities in the replies of an emulated worker: SGLang's three layouts, with made-up values. Pure."""

from __future__ import annotations

from typing import Any

from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.protocol.fake_tokens import logprob_of, token_at, token_text
from sun_sglang.emulator.protocol.replies import completion_logprobs
from sun_sglang.emulator.protocol.request import GenerationRequest

_TOP_VOCABULARY = 1 << 15


def generate_columns(generation: Generation) -> dict[str, Any]:
    """Return the keys of `meta_info` with log probabilities; none if the request does not ask for them."""
    options = generation.request.logprobs
    if options is None:
        return {}
    prompt = generation.request.prompt if generation.has_input_logprobs else ()
    output = [_entry(t, i, with_text=options.with_text) for i, t in enumerate(generation.tokens)]
    columns: dict[str, Any] = {
        "input_token_logprobs": [
            [None if i == 0 else logprob_of(t, i), t, token_text(t) if options.with_text else None]
            for i, t in enumerate(prompt)
            if i >= options.start
        ],
        "output_token_logprobs": output,
        "output_token_logprobs_length": len(output),
    }
    if options.top:
        columns["input_top_logprobs"] = [
            None if i == 0 else _top_entries(generation, token, i)
            for i, token in enumerate(prompt)
            if i >= options.start
        ]
        columns["output_top_logprobs"] = [
            _top_entries(generation, token, i) for i, token in enumerate(generation.tokens)
        ]
    if options.ids:
        rows: list[Any] = [
            [_entry(t, i, with_text=options.with_text) for t in options.ids] for i, _ in enumerate(generation.tokens)
        ]
        if generation.first_token_transferred and rows:
            # a KV transfer does not carry the values of the first token (`patches/transfer/first_ids_row.py`)
            rows[0] = None
        columns["input_token_ids_logprobs"] = []
        columns["output_token_ids_logprobs"] = rows
    return columns


def completion_columns(generation: Generation, start: int, *, with_input: bool) -> dict[str, Any] | None:
    """Return the log probabilities of a `/v1/completions` choice; None if the request does not ask for them.

    Args:
        generation: the generation.
        start: index of the first generated token.
        with_input: whether the prompt's tokens come first.
    """
    options = generation.request.logprobs
    if options is None:
        return None
    prompt = generation.request.prompt if with_input and generation.has_input_logprobs else ()
    # the first token of a prompt has no log probability
    placed = [(t, i, i == 0) for i, t in enumerate(prompt)]
    placed += [(t, i, False) for i, t in enumerate(generation.tokens) if i >= start]
    top = [
        None if unknown else {token_text(t): logprob_of(t, i) for t in _top(generation.request, token, i)}
        for token, i, unknown in placed
    ]
    return completion_logprobs(
        [token_text(t) for t, _, _ in placed],
        [None if unknown else logprob_of(t, i) for t, i, unknown in placed],
        top if options.top else [],
    )


def chat_items(generation: Generation, start: int) -> dict[str, Any] | None:
    """Return the log probabilities of a chat choice from token `start` on; None if the request asks for none."""
    if generation.request.logprobs is None:
        return None
    return {"content": [_item(generation.request, t, i) for i, t in enumerate(generation.tokens) if i >= start]}


def _top(request: GenerationRequest, token: int, position: int) -> list[int]:
    """Return the most likely tokens at a position, the generated token first."""
    assert request.logprobs is not None
    count = request.logprobs.top
    return [token, *(token_at(token, position + i, _TOP_VOCABULARY) for i in range(1, count))][:count]


def _top_entries(generation: Generation, token: int, position: int) -> list[Any]:
    assert generation.request.logprobs is not None
    with_text = generation.request.logprobs.with_text
    return [_entry(t, position, with_text=with_text) for t in _top(generation.request, token, position)]


def _entry(token: int, position: int, *, with_text: bool) -> list[Any]:
    return [logprob_of(token, position), token, token_text(token) if with_text else None]


def _item(request: GenerationRequest, token: int, position: int) -> dict[str, Any]:
    top = [_described(t, position) for t in _top(request, token, position)]
    return {**_described(token, position), "top_logprobs": top}


def _described(token: int, position: int) -> dict[str, Any]:
    text = token_text(token)
    return {"token": text, "bytes": list(text.encode()), "logprob": logprob_of(token, position)}
