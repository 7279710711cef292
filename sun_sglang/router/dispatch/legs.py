"""What is sent to the two workers: bodies, rooms, ids, namespaces. Pure but for the randomness, which is passed in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.fan_out import SingleRequest
from sun_sglang.router.protocol.request import Endpoint, Request
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.workers.paths import Pair

_TOKEN_BYTES = 4
# About what a leg has besides the client's fields: ids, addresses, a namespace.
_MEETING_BYTES = 256


class PairRequest(NamedTuple):
    """One answer to be had from a pair of workers, whichever pair it will be.

    Attributes:
        endpoint: the path on both workers.
        task: for choosing a pair.
        shared: what both legs of every answer get, as JSON without its closing brace. One object for all answers.
        own: what this answer's prompt has besides, as JSON that continues `shared`. One object for all of its answers.
        stream: the decode leg streams.
        stream_options: for the decode leg, JSON; empty where there are none.
        extra_key: the client's part of the namespace.
        cache_salt: the same, under SGLang's other name.
        needs_prefill: the answer takes input logprobs from the prefill leg.
        cost: expected work.
        keys: what the prompt begins with, for policies that look at it; else empty.
    """

    endpoint: Endpoint
    task: str
    shared: bytes
    own: bytes
    stream: bool
    stream_options: bytes
    extra_key: str | None
    cache_salt: str | None
    needs_prefill: bool
    cost: Cost
    keys: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that both legs are about to be sent."""
        names = len(self.extra_key or "") + len(self.cache_salt or "") + _MEETING_BYTES
        return 2 * (len(self.shared) + len(self.own) + names)


class LegBodies(NamedTuple):
    """The two bodies of an attempt."""

    prefill: bytes
    decode: bytes


class LegIds(NamedTuple):
    """What an attempt is known by on its workers.

    Attributes:
        rid: request id: 32 hex characters, and never fewer, since SGLang aborts by prefix (managers/scheduler.py).
        room: bootstrap room: 1 to 2^63 - 1. SGLang takes 0 for none (disaggregation/utils.py).
    """

    rid: str
    room: int


def new_leg_ids(drawn: bytes) -> LegIds:
    """Names from 24 random bytes."""
    return LegIds(drawn[:16].hex(), int.from_bytes(drawn[16:], "little") >> 1 or 1)


def make_pair_requests(
    request: Request,
    singles: Sequence[SingleRequest],
    costs: Sequence[Cost],
    *,
    worker_model: str,
    keys: Sequence[tuple[int, ...]] = (),
    most: int | None = None,
) -> tuple[PairRequest, ...]:
    """The calls for a request's answers, in the order of its singles.

    What answers have in common is serialized once, and what a prompt has to itself once a prompt.

    Args:
        request: what was asked.
        singles: its answers.
        costs: expected work of an answer to each prompt.
        worker_model: what the workers are to echo as `model`.
        keys: what each prompt begins with, where a policy looks at that.
        most: bytes that the legs of several answers may have together.

    Raises:
        RequestError: 413 for several answers that would send more than `most` bytes to the workers.
    """
    taken = singles[0].own_fields.keys()
    common = {name: value for name, value in request.body.items() if name not in taken} if taken else request.body
    options = b""
    if request.endpoint is not Endpoint.GENERATE:
        common = {**common, "model": worker_model}
        if request.stream:
            options = orjson.dumps({**(request.stream_options or {}), "include_usage": True})
    shared = orjson.dumps(common)[:-1]
    calls: list[PairRequest] = []
    size, own = 0, b""
    for place, single in enumerate(singles):
        if place % request.n == 0 and single.own_fields:
            own = (b"," if common else b"") + orjson.dumps(single.own_fields)[1:-1]
        call = PairRequest(
            endpoint=request.endpoint,
            task=request.task,
            shared=shared,
            own=own,
            stream=request.stream,
            stream_options=options,
            extra_key=single.extra_key,
            cache_salt=single.cache_salt,
            needs_prefill=needs_prefill(request.endpoint, single.body),
            cost=costs[single.prompt_index],
            keys=keys[single.prompt_index] if keys else (),
        )
        calls.append(call)
        if most is not None and len(singles) > 1:
            size += call.size
            if size > most:
                raise _too_much(len(singles), len(shared), most)
    return tuple(calls)


def leg_bodies(call: PairRequest, pair: Pair, *, rid: str, room: int) -> LegBodies:
    """Return the bodies of both legs. The prefill leg never streams: its status then says whether it worked.

    Both legs name the data-parallel rank that prefills, where there are several. SGLang's own rule (the room modulo the
    ranks) refuses every rank but the first unless the ranks are those of DP attention
    (`disaggregation/common/conn.py`: `CommonKVSender.__init__`).
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
        rank = room % card.dp_size
        meeting["disagg_prefill_dp_rank"] = rank
        routing = b',"routed_dp_rank":%d' % rank
    ours = namespace(pair.prefill.spec.pool, card.module, call.extra_key, call.cache_salt)
    decodes = ours if _may_reuse(pair) else f"{ours}!{rid}"
    both = (call.shared, call.own, b",", orjson.dumps(meeting)[1:-1], b',"extra_key":')
    options = b',"stream_options":' + call.stream_options if call.stream_options else b""
    streams = b',"stream":true' + options + b"}" if call.stream else b',"stream":false}'
    return LegBodies(
        prefill=b"".join((*both, orjson.dumps(ours), routing, b',"stream":false}')),
        decode=b"".join((*both, orjson.dumps(decodes), streams)),
    )


def _may_reuse(pair: Pair) -> bool:
    """Return whether a request may be answered from what earlier ones of its namespace left in the decode cache.

    The KV of an answer is the decode module's own. Where the prefill module would make other KV of the same tokens, a
    later turn of a conversation must not find it.
    """
    prefill, decode = pair.prefill.card, pair.decode.card
    assert prefill is not None, "a usable pair has been read"
    assert decode is not None, "a usable pair has been read"
    return not decode.keeps_answers or prefill.module == decode.module


def namespace(pool: str, module: str, extra_key: str | None = None, cache_salt: str | None = None) -> str:
    """The cache namespace of a request: who made the KV, and what the client adds to it.

    KV may be shared by requests that the same module prefills, and by no others. A client's own keys only divide that
    further. Two different inputs never give the same namespace: `@` and `#` are in no pool name or revision, and the
    client's part is JSON.
    """
    ours = f"{pool}@{module}"
    if not extra_key and not cache_salt:
        return ours
    return f"{ours}#{orjson.dumps([extra_key or None, cache_salt or None]).decode()}"


def worker_model(task: str) -> str:
    """The name under which workers know a task: its own, unless SGLang would take it for `base:adapter`."""
    if ":" not in task:
        return task
    return "sun-task-" + hashlib.sha256(task.encode()).hexdigest()[:16]


def needs_prefill(endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """The reply is to hold logprobs of the prompt, which only the prefill worker computes."""
    if endpoint is Endpoint.GENERATE:
        return bool(body.get("return_logprob")) and body.get("logprob_start_len") not in (None, -1)
    return endpoint is Endpoint.COMPLETIONS and bool(body.get("echo")) and bool(body.get("logprobs"))


def _too_much(answers: int, shared: int, most: int) -> RequestError:
    return RequestError(
        413,
        f"{answers} answers, each with the {shared} bytes that they have in common, are over the {most >> 20} MiB that "
        "one request may send to workers; ask for fewer answers, or split the list of prompts",
        code="fan_out_too_large",
    )
