"""The canary of the weights of a task: a real request that returns the log probabilities of its prompt. Pure."""

from __future__ import annotations

import random
from typing import Any

import orjson

from sun_sglang.contracts.adapter import LOGPROBS, AdapterRef, Fingerprint
from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.worker_replies import BadReplyError, error_message, parse_json
from sun_sglang.router.scheduling.cost import Cost

PROMPT_TOKENS = 32
_SEED = 20260527


def prompt_of(weights: TaskWeights, vocab_size: int) -> tuple[int, ...]:
    """Return the prompt on which weights are checked: that of an adapter's fingerprint, else one for all others."""
    fingerprint = fingerprint_of(weights)
    if fingerprint is not None:
        return fingerprint.tokens
    rng = random.Random(_SEED)
    return tuple(rng.randrange(vocab_size) for _ in range(PROMPT_TOKENS))


def fingerprint_of(weights: TaskWeights) -> Fingerprint | None:
    """Return the effect that was recorded with weights; None where none was, and for a module."""
    return weights.fingerprint if isinstance(weights, AdapterRef) else None


def make_effect_canary(tokens: tuple[int, ...], rng: random.Random) -> PairRequest:
    """Return a request for the log probabilities of a prompt, in a namespace of its own. It belongs to no task.

    The pair of workers decides with which weights the prompt runs.
    """
    body = {
        "input_ids": tokens,
        "sampling_params": {"temperature": 0.0, "max_new_tokens": 1, "ignore_eos": True},
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    return PairRequest(
        endpoint=Endpoint.GENERATE,
        task="",
        shared=orjson.dumps(body)[:-1],
        own=b"",
        stream=False,
        stream_options=b"",
        extra_key="sun-canary",
        cache_salt=f"{rng.getrandbits(64):016x}",
        needs_prefill=True,
        cost=Cost(len(tokens), len(tokens) + 1),
    )


def prompt_logprobs(reply: bytes, tokens: tuple[int, ...]) -> tuple[float, ...]:
    """Return the log probability of each prompt token but the first, from a prefill worker's reply.

    Raises:
        BadReplyError: the reply has none, or those of another prompt.
    """
    result: Any = parse_json(reply)
    meta = result.get("meta_info") if isinstance(result, dict) else None
    rows = meta.get("input_token_logprobs") if isinstance(meta, dict) else None
    if not isinstance(rows, list):
        raise BadReplyError(f"the prefill worker's reply has no log probabilities: {error_message(reply)}")
    if len(rows) != len(tokens):
        raise BadReplyError(f"the prefill worker's reply has log probabilities of {len(rows)} of {len(tokens)} tokens")
    values = []
    for row, token in zip(rows, tokens, strict=True):
        match row:
            case [value, found, *_] if found == token:
                values.append(value)
            case _:
                raise BadReplyError("the prefill worker's reply has the log probabilities of another prompt")
    # nothing precedes the first token
    del values[0]
    least, most = LOGPROBS
    # a NaN is in no range
    if not all(isinstance(value, float | int) and least <= value <= most for value in values):
        raise BadReplyError(f"the prefill worker's reply has log probabilities that are no numbers from {least:g} to 0")
    return tuple(map(float, values))
