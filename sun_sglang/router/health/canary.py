"""The canary: a small real request through one (task, prefill worker, decode worker) path. Pure."""

from __future__ import annotations

import random
import re
from typing import Any

import orjson

from sun_sglang.router.dispatch.legs import PairRequest
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.worker_replies import error_message, parse_json
from sun_sglang.router.scheduling.cost import Cost

PROMPT_TOKENS = 8
OUTPUT_TOKENS = 3
# rooms, ports, seconds, ids of requests
_VARIABLE = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")


def make_canary(task: str, vocab_size: int, rng: random.Random) -> PairRequest:
    """A canary for a task: a random prompt, so that no cache answers it, in a namespace of its own.

    More than one output token is asked for, since the first one is the prefill worker's.
    """
    body = {
        "input_ids": [rng.randrange(vocab_size) for _ in range(PROMPT_TOKENS)],
        "sampling_params": {"temperature": 0.0, "max_new_tokens": OUTPUT_TOKENS, "ignore_eos": True},
    }
    return PairRequest(
        endpoint=Endpoint.GENERATE,
        task=task,
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
    """Why a canary's answer proves nothing; empty if it is right."""
    result: Any = parse_json(body)
    meta = result.get("meta_info") if isinstance(result, dict) else None
    if not isinstance(meta, dict):
        return f"its answer is no result: {error_message(body)}"
    prompt, made = meta.get("prompt_tokens"), meta.get("completion_tokens")
    if prompt != PROMPT_TOKENS or made != OUTPUT_TOKENS:
        return f"its answer has {made} tokens on {prompt} of the prompt, and not {OUTPUT_TOKENS} on {PROMPT_TOKENS}"
    return ""


def is_same_fault(one: str, other: str) -> bool:
    """Return whether two canaries failed in one way: their faults differ in numbers and ids at most."""
    return _VARIABLE.sub("#", one) == _VARIABLE.sub("#", other)
