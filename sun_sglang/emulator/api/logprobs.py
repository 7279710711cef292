"""Log probabilities in the replies of an emulated worker: SGLang's three layouts, with made-up values. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.protocol.fake_tokens import logprob_of, token_at, token_text
from sun_sglang.emulator.protocol.replies import completion_logprobs
from sun_sglang.emulator.protocol.request import LogprobOptions

_TOP_VOCABULARY = 1 << 15


def generate_columns(generation: Generation) -> dict[str, Any]:
    """Return the keys of `meta_info` with log probabilities; none if the request does not ask for them."""
    options = generation.request.logprobs
    if options is None:
        return {}
    prompt = [p for i, p in enumerate(_prompt(generation)) if i >= options.start]
    output = _output(generation)
    columns: dict[str, Any] = {
        "input_token_logprobs": [_entry(p, with_text=options.with_text) for p in prompt],
        "output_token_logprobs": [_entry(p, with_text=options.with_text) for p in output],
        "output_token_logprobs_length": len(output),
    }
    if options.top:
        columns["input_top_logprobs"] = [_top_entries(p, options) for p in prompt]
        columns["output_top_logprobs"] = [_top_entries(p, options) for p in output]
    if options.ids:
        rows: list[Any] = [
            [
                _entry(_Placed(t, p.position, logprob_of(t, p.position)), with_text=options.with_text)
                for t in options.ids
            ]
            for p in output
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
    placed = [*(_prompt(generation) if with_input else ()), *_output(generation, start)]
    top = [_top_by_text(p, options) for p in placed] if options.top else []
    return completion_logprobs([token_text(p.token) for p in placed], [p.logprob for p in placed], top)


def chat_items(generation: Generation, start: int) -> dict[str, Any] | None:
    """Return the log probabilities of a chat choice from token `start` on; None if the request asks for none."""
    options = generation.request.logprobs
    if options is None:
        return None
    items = [
        {**_described(p), "top_logprobs": [_described(t) for t in _top(p, options)]} for p in _output(generation, start)
    ]
    return {"content": items}


class _Placed(NamedTuple):
    """A token at a position of the prompt or of the answer; the first token of a prompt has no log probability."""

    token: int
    position: int
    logprob: float | None


def _prompt(generation: Generation) -> list[_Placed]:
    """Return the prompt's tokens; nothing if this worker does not compute their log probabilities."""
    both = zip(generation.request.prompt, generation.input_logprobs, strict=False)
    return [_Placed(token, i, logprob) for i, (token, logprob) in enumerate(both)]


def _output(generation: Generation, start: int = 0) -> list[_Placed]:
    return [_Placed(t, i, logprob_of(t, i)) for i, t in enumerate(generation.tokens) if i >= start]


def _top(placed: _Placed, options: LogprobOptions) -> list[_Placed]:
    """Return the most likely tokens at a position, the token itself first."""
    others = (token_at(placed.token, placed.position + i, _TOP_VOCABULARY) for i in range(1, options.top))
    return [placed, *(_Placed(t, placed.position, logprob_of(t, placed.position)) for t in others)][: options.top]


def _top_by_text(placed: _Placed, options: LogprobOptions) -> dict[str, float] | None:
    if placed.logprob is None:
        return None
    return {token_text(t.token): t.logprob for t in _top(placed, options) if t.logprob is not None}


def _top_entries(placed: _Placed, options: LogprobOptions) -> list[Any] | None:
    if placed.logprob is None:
        return None
    return [_entry(t, with_text=options.with_text) for t in _top(placed, options)]


def _entry(placed: _Placed, *, with_text: bool) -> list[Any]:
    return [placed.logprob, placed.token, token_text(placed.token) if with_text else None]


def _described(placed: _Placed) -> dict[str, Any]:
    text = token_text(placed.token)
    return {"token": text, "bytes": list(text.encode()), "logprob": placed.logprob}
