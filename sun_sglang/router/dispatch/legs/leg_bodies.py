"""The requests to both workers: bodies, rooms, request ids. Pure; the caller passes the random bytes.

Where the decode module makes the first token (`contracts/first_token.py`), both legs carry a mark before their
namespace, and the workers do the rest. The mode follows from the cards of the two workers, so requests of both modes
may meet on a worker. Besides this file, only the canary of a path depends on it.

The decode leg of a stream that may go on elsewhere carries the mark of `contracts/replay.py`, with the tokens to
repeat. The prefill leg needs the first of them alone, and none where the decode worker makes it.
"""

from __future__ import annotations

from array import array
from typing import Literal, NamedTuple

import orjson

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.first_token import mark_decode_first
from sun_sglang.contracts.replay import mark_replay
from sun_sglang.router.dispatch.legs.cache_namespace import cache_namespace, may_reuse_answers
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.workers.worker_paths import Pair

Leg = Literal["prefill", "decode"]
LEGS: tuple[Leg, Leg] = ("prefill", "decode")


class LegBodies(NamedTuple):
    """The JSON bodies of both legs."""

    prefill: bytes
    decode: bytes


class LegIds(NamedTuple):
    """The ids of an attempt, the same on both workers.

    Attributes:
        rid: request id: 32 hex characters, and never fewer, since SGLang aborts by prefix (managers/scheduler.py).
        room: bootstrap room: 1 to 2^63 - 1. SGLang reads 0 as none (disaggregation/utils.py).
    """

    rid: str
    room: int


def new_leg_ids(random_bytes: bytes) -> LegIds:
    """Return ids made of 24 random bytes."""
    return LegIds(random_bytes[:16].hex(), int.from_bytes(random_bytes[16:], "little") >> 1 or 1)


def leg_bodies(request: PairRequest, pair: Pair, *, rid: str, room: int, tokens: array[int] | None = None) -> LegBodies:
    """Return the bodies of both legs. The prefill leg never streams, so its status reports whether it succeeded.

    Both legs name the data-parallel rank that prefills, where there are several. SGLang's own rule (the room modulo the
    ranks) refuses every rank but the first unless the ranks are those of DP attention
    (`disaggregation/common/conn.py`: `CommonKVSender.__init__`).

    Args:
        request: the part that does not depend on the pair.
        pair: the workers.
        rid: request id of the attempt.
        room: bootstrap room of the attempt.
        tokens: output tokens that the workers repeat, in a stream that reports its tokens; None where it reports none.
    """
    card = pair.prefill.card
    assert card is not None, "a usable pair has been read"
    meeting = {
        "rid": rid,
        "bootstrap_host": pair.prefill.spec.host,
        "bootstrap_port": card.bootstrap_port,
        "bootstrap_room": room,
    }
    routing = b""
    if card.dp_size > 1:
        rank = request.rank(room, card.dp_size)
        meeting["disagg_prefill_dp_rank"] = rank
        routing = b',"routed_dp_rank":%d' % rank
    pool, keys = pair.prefill.spec.pool, (request.extra_key, request.cache_salt)
    prefills = cache_namespace(pool, card.module, *keys, weights=pair.weights)
    decodes = prefills if may_reuse_answers(pair) else f"{prefills}!{rid}"
    decode_first = pair.first_token == "decode"
    if decode_first:
        prefills, decodes = mark_decode_first(prefills), mark_decode_first(decodes)
    if tokens is not None:
        decodes = mark_replay(decodes, tokens)
        if tokens and not decode_first:
            prefills = mark_replay(prefills, tokens[:1])
    both = (request.shared, request.own, b",", orjson.dumps(meeting)[1:-1], b',"extra_key":')
    # the decode worker has no adapters: it decodes on the KV that the prefill worker made with one. A module is named
    # by the namespace.
    adapter = b',"lora_path":"%b"' % pair.weights.name.encode() if isinstance(pair.weights, AdapterRef) else b""
    options = b',"stream_options":' + request.stream_options if request.stream_options else b""
    streams = b',"stream":true' + options + b"}" if request.stream else b',"stream":false}'
    return LegBodies(
        prefill=b"".join((*both, orjson.dumps(prefills), routing, adapter, b',"stream":false}')),
        decode=b"".join((*both, orjson.dumps(decodes), streams)),
    )
