"""The canary: a small real request over the path between a prefill and a decode worker. Pure."""

from __future__ import annotations

import random
import re
from typing import Any

import orjson

from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.worker_replies import error_message, parse_json
from sun_sglang.router.scheduling.cost import Cost

PROMPT_TOKENS = 8
OUTPUT_TOKENS = 3
# Rooms, ports, seconds and request ids.
_VARIABLE = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")


def make_canary(vocab_size: int, rng: random.Random) -> PairRequest:
    """Return a canary: a random prompt, which no cache holds, in a namespace of its own. It belongs to no task.

    It asks for more than one output token, since the prefill worker makes the first one.
    """
    body = {
        "input_ids": [rng.randrange(vocab_size) for _ in range(PROMPT_TOKENS)],
        "sampling_params": {"temperature": 0.0, "max_new_tokens": OUTPUT_TOKENS, "ignore_eos": True},
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
        needs_prefill=False,
        cost=Cost(PROMPT_TOKENS, PROMPT_TOKENS + OUTPUT_TOKENS),
    )


def canary_fault(body: bytes) -> str:
    """Return why a reply to a canary proves nothing; empty if the reply is right."""
    result: Any = parse_json(body)
    meta = result.get("meta_info") if isinstance(result, dict) else None
    if not isinstance(meta, dict):
        return f"its reply is no result: {error_message(body)}"
    prompt, made = meta.get("prompt_tokens"), meta.get("completion_tokens")
    if prompt != PROMPT_TOKENS or made != OUTPUT_TOKENS:
        return f"its reply has {made} tokens for {prompt} prompt tokens, instead of {OUTPUT_TOKENS} for {PROMPT_TOKENS}"
    return ""


def is_same_fault(one: str, other: str) -> bool:
    """Return whether two faults of canaries differ in numbers and ids at most."""
    return _VARIABLE.sub("#", one) == _VARIABLE.sub("#", other)
