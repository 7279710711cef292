"""The canary: a small real request over the path between a prefill and a decode worker. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

import orjson

from sun_sglang.contracts.scheme import Side
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

    It asks for more than one output token, since the prefill worker may make the first one. The prefill worker's reply
    shows which of the two did.
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
        needs_prefill=True,
        cost=Cost(PROMPT_TOKENS, PROMPT_TOKENS + OUTPUT_TOKENS),
    )


def canary_fault(decode: bytes, prefill: bytes | None, first_token: Side) -> str:
    """Return why the replies to a canary prove nothing; empty if they are right.

    Args:
        decode: the decode worker's reply.
        prefill: the prefill worker's reply; None if there is none.
        first_token: the side that makes the first token on this path.
    """
    result: Any = parse_json(decode)
    meta = result.get("meta_info") if isinstance(result, dict) else None
    if not isinstance(meta, dict):
        return f"its reply is no result: {error_message(decode)}"
    prompt, made = meta.get("prompt_tokens"), meta.get("completion_tokens")
    if prompt != PROMPT_TOKENS or made != OUTPUT_TOKENS:
        return f"its reply has {made} tokens for {prompt} prompt tokens, instead of {OUTPUT_TOKENS} for {PROMPT_TOKENS}"
    return _first_token_fault(result, parse_json(prefill) if prefill is not None else None, first_token)


def _first_token_fault(decode: dict[str, Any], prefill: Any, first_token: Side) -> str:
    """Return why two replies do not show that this side made the first token; empty if they do.

    A prefill worker that runs the whole prompt hands its own token over. Otherwise it runs, and counts, one token less.
    """
    meta = prefill.get("meta_info") if isinstance(prefill, dict) else None
    if not isinstance(meta, dict):
        return "the prefill worker's reply is no result"
    computed, expected = meta.get("prompt_tokens"), PROMPT_TOKENS - (first_token == "decode")
    if computed != expected:
        return (
            f"the prefill worker computed {computed} of {PROMPT_TOKENS} prompt tokens instead of {expected}: the "
            f"{first_token} module makes the first token"
        )
    handed, first = (_first_id(reply) for reply in (prefill, decode))
    if first_token == "prefill" and (first is None or first != handed):
        return f"its first token is {first}, and the prefill worker handed {handed} over"
    return ""


def _first_id(reply: Mapping[str, Any]) -> Any:
    ids = reply.get("output_ids")
    return ids[0] if isinstance(ids, list) and ids else None


def is_same_fault(one: str, other: str) -> bool:
    """Return whether two faults of canaries differ in numbers and ids at most."""
    return _VARIABLE.sub("#", one) == _VARIABLE.sub("#", other)
