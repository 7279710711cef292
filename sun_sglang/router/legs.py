"""What is sent to the two workers: bodies, rooms, ids, namespaces. Pure but for the randomness, which is passed in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from sun_sglang.router.fanout import Single
from sun_sglang.router.registry import Pair
from sun_sglang.router.request import Endpoint, Request


class Cost(NamedTuple):
    """What a request is expected to weigh on each side, in tokens; for comparing workers, not for limits."""

    prefill: int
    decode: int


class Call(NamedTuple):
    """One answer to be had from a pair of workers, whichever pair it will be.

    Attributes:
        endpoint: the path on both workers.
        task: for choosing a pair.
        shared: what both legs get, as JSON without its closing brace.
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
    stream: bool
    stream_options: bytes
    extra_key: str | None
    cache_salt: str | None
    needs_prefill: bool
    cost: Cost
    keys: tuple[int, ...] = ()


class Bodies(NamedTuple):
    """The two bodies of an attempt."""

    prefill: bytes
    decode: bytes


class Names(NamedTuple):
    """What an attempt is known by on its workers.

    Attributes:
        rid: request id: 32 hex characters, and never fewer, since SGLang aborts by prefix (managers/scheduler.py).
        room: bootstrap room: 1 to 2^63 - 1. SGLang takes 0 for none (disaggregation/utils.py).
    """

    rid: str
    room: int


def new_names(drawn: bytes) -> Names:
    """Names from 24 random bytes."""
    return Names(drawn[:16].hex(), int.from_bytes(drawn[16:], "little") >> 1 or 1)


def make_call(
    request: Request,
    single: Single,
    *,
    wire_model: str,
    keys: tuple[int, ...] = (),
    expected: int = 0,
    most: int | None = None,
) -> Call:
    """The call for one of a request's answers.

    Args:
        request: what was asked.
        single: which of its answers.
        wire_model: what the workers are to echo as `model`.
        keys: what the prompt begins with, where a policy looks at that.
        expected: tokens to expect of an answer that the client sets no limit for.
        most: tokens that prompt and answer together can have, whatever limit the client sets.
    """
    body = dict(single.body)
    if request.endpoint is Endpoint.GENERATE:
        options = b""
    else:
        body["model"] = wire_model
        options = orjson.dumps({**(request.stream_options or {}), "include_usage": True}) if request.stream else b""
    return Call(
        endpoint=request.endpoint,
        task=request.task,
        shared=orjson.dumps(body)[:-1],
        stream=request.stream,
        stream_options=options,
        extra_key=single.extra_key,
        cache_salt=single.cache_salt,
        needs_prefill=needs_prefill(request.endpoint, body),
        cost=estimate(request.endpoint, body, expected, most),
        keys=keys,
    )


def leg_bodies(call: Call, pair: Pair, *, rid: str, room: int) -> Bodies:
    """The bodies of both legs. The prefill leg never streams: its status then says whether it worked."""
    card = pair.prefill.card
    assert card is not None, "a usable pair has been read"
    meeting = {
        "rid": rid,
        "bootstrap_host": pair.prefill.spec.host,
        "bootstrap_port": card.bootstrap_port,
        "bootstrap_room": room,
    }
    ours = namespace(pair.prefill.spec.pool, card.module, call.extra_key, call.cache_salt)
    both = call.shared + b"," + orjson.dumps(meeting)[1:-1] + b',"extra_key":'
    options = b',"stream_options":' + call.stream_options if call.stream_options else b""
    streams = b',"stream":true' + options if call.stream else b',"stream":false'
    return Bodies(
        prefill=both + orjson.dumps(ours) + b',"stream":false}',
        decode=both + orjson.dumps(ours if _may_reuse(pair) else f"{ours}!{rid}") + streams + b"}",
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


def wire_model(task: str) -> str:
    """The name under which workers know a task: its own, unless SGLang would take it for `base:adapter`."""
    if ":" not in task:
        return task
    return "sun-task-" + hashlib.sha256(task.encode()).hexdigest()[:16]


def needs_prefill(endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """The reply is to hold logprobs of the prompt, which only the prefill worker computes."""
    if endpoint is Endpoint.GENERATE:
        return bool(body.get("return_logprob")) and body.get("logprob_start_len") not in (None, -1)
    return endpoint is Endpoint.COMPLETIONS and bool(body.get("echo")) and bool(body.get("logprobs"))


def estimate(endpoint: Endpoint, body: Mapping[str, Any], expected: int = 0, most: int | None = None) -> Cost:
    """Expected work, with four bytes a token where there are no token ids."""
    match endpoint:
        case Endpoint.GENERATE:
            prompt = _size(body.get("input_ids") or body.get("text"))
            output = (body.get("sampling_params") or {}).get("max_new_tokens")
        case Endpoint.COMPLETIONS:
            prompt, output = _size(body.get("prompt")), body.get("max_tokens")
        case Endpoint.CHAT:
            texts = (m.get("content") for m in body.get("messages") or ())
            prompt = _size(body["input_ids"]) if body.get("input_ids") else sum(_size(t) for t in texts)
            output = body.get("max_completion_tokens") or body.get("max_tokens")
    both = prompt + max(0, expected if output is None else output)
    return Cost(prompt, both if most is None else max(prompt, min(both, most)))


def _size(prompt: object) -> int:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return len(prompt)
    return len(prompt if isinstance(prompt, str) else orjson.dumps(prompt)) // 4 + 1
