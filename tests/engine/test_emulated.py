"""The emulated worker against the real one: the same requests to a pair of each must give answers of the same form.

The test compares statuses, content types, the framing of streams, every key and the JSON type under it, and the values
that mean something without a model: finish reasons, token counts, cache hits, error types, codes and messages.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.contracts.adapter import NAME_PREFIX
from sun_sglang.contracts.adapters_report import ADAPTERS_PATH
from sun_sglang.contracts.first_token import ONE_TOKEN, mark_decode_first
from sun_sglang.emulator.protocol.reply_shapes import SHAPES
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.patches.versions import installed_version
from sun_sglang.router.health.load_report import parse_load
from sun_sglang.router.workers.decode_steps import DecodeTotals
from sun_sglang.sglang_versions import NEWEST_VERSION
from tests.engine.conftest import ADAPTERS, Deployment
from tests.engine.precision import PRECISION
from tests.engine.test_lora import write_adapter
from tests.support.ports import PORTS

GREEDY = {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}
# so long that it cannot come as one event, however busy the machine is: SGLang merges those that wait
IN_PIECES = {**GREEDY, "max_new_tokens": 150}
OPENAI = {"model": "x", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
# a byte that is a whole character: half characters wait for their other half, and their log probabilities get lost
WHOLE = {"logit_bias": {"76": 1000.0}}
HELLO = [{"role": "user", "content": "hello"}]
LONG = [10] * 3000
USAGE = {"include_usage": True}
EVERY_USAGE = {"include_usage": True, "continuous_usage_stats": True}
# namespaces of their own, in which nothing is cached
UNCACHED, UNCACHED_TOO = {"extra_key": uuid.uuid4().hex}, {"extra_key": uuid.uuid4().hex}

GENERATE = {
    "ids": {"input_ids": [10, 11, 12, 13, 14], "sampling_params": GREEDY},
    "text": {"text": "hello wor", "sampling_params": GREEDY},
    "text again": {"text": "hello wor", "sampling_params": GREEDY},
    "stream": {"text": "hello", "sampling_params": IN_PIECES, "stream": True},
    "one token": {"input_ids": [10, 11, 12], "sampling_params": {**GREEDY, "max_new_tokens": 1}},
    "no token": {"input_ids": [10, 11, 12], "sampling_params": {**GREEDY, "max_new_tokens": 0}},
    "logprobs": {"input_ids": [10, 11, 12], "sampling_params": GREEDY, "return_logprob": True},
    "top logprobs": {
        "input_ids": [10, 11, 12],
        "sampling_params": GREEDY,
        "return_logprob": True,
        "top_logprobs_num": 2,
    },
    "input logprobs": {
        "input_ids": [10, 11, 12],
        "sampling_params": GREEDY,
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": True,
    },
    "logprobs of ids": {
        "input_ids": [10, 11, 12],
        "sampling_params": GREEDY,
        "return_logprob": True,
        "token_ids_logprob": [5, 6],
    },
    "streamed logprobs": {"input_ids": [10, 11], "sampling_params": IN_PIECES, "return_logprob": True, "stream": True},
    "a field that nobody knows": {"input_ids": [10], "sampling_params": GREEDY, "foo": 1},
    "text and ids": {"text": "a", "input_ids": [10], "sampling_params": GREEDY},
    "a stop that never comes": {"text": "hello", "sampling_params": {**GREEDY, "stop": "zzzz"}},
    "too long": {"input_ids": LONG, "sampling_params": GREEDY},
    "too long, streamed": {"input_ids": LONG, "sampling_params": GREEDY, "stream": True},
    "too much in all": {"input_ids": [10] * 2000, "sampling_params": {**GREEDY, "max_new_tokens": 100}},
    "cold": {"input_ids": [10], "sampling_params": {**GREEDY, "temperature": -1}},
    "temperature in words": {"input_ids": [10], "sampling_params": {**GREEDY, "temperature": "warm"}},
    "top_p": {"input_ids": [10], "sampling_params": {"max_new_tokens": 2, "top_p": 2}},
    "a parameter that nobody knows": {"input_ids": [10], "sampling_params": {**GREEDY, "foo": 1}},
    "unknown parameter, streamed": {"input_ids": [10], "sampling_params": {**GREEDY, "foo": 1}, "stream": True},
    "stop of a wrong type": {"input_ids": [10], "sampling_params": {**GREEDY, "stop": 3}},
    "parameter of some versions": {"input_ids": [10], "sampling_params": {**GREEDY, "watermark": None}},
    "parameter of the schema alone": {"input_ids": [10], "sampling_params": {**GREEDY, "choice": ["a"]}},
    "nothing": {"sampling_params": GREEDY},
    "no ids": {"input_ids": [], "sampling_params": GREEDY},
    "ids in words": {"input_ids": "abc", "sampling_params": GREEDY},
    "fewer than none": {"input_ids": [10], "sampling_params": {**GREEDY, "max_new_tokens": -3}},
    "least over most": {"input_ids": [10], "sampling_params": {**GREEDY, "min_new_tokens": 30}},
    "a session": {"input_ids": [10], "sampling_params": GREEDY, "session_params": {"id": "x"}},
    "an adapter": {"input_ids": [10], "sampling_params": GREEDY, "lora_path": "x"},
    "half a body": b'{"text": ',
    "a list": b"[1]",
}
COMPLETIONS = {
    "text": {**OPENAI, "prompt": "hello"},
    "ids": {**OPENAI, "prompt": [10, 11, 12]},
    "default length": {"prompt": "hello", "temperature": 0, "ignore_eos": True},
    "stream": {**OPENAI, "prompt": "hello", "stream": True},
    "stream with usage": {**OPENAI, "prompt": "hello", "stream": True, "stream_options": USAGE},
    "stream with all usage": {**OPENAI, "prompt": "hello", "stream": True, "stream_options": EVERY_USAGE},
    "uncached usage": {**OPENAI, **UNCACHED, "prompt": "hello", "stream": True, "stream_options": USAGE},
    "uncached all usage": {**OPENAI, **UNCACHED_TOO, "prompt": "hello", "stream": True, "stream_options": EVERY_USAGE},
    "logprobs": {**OPENAI, "prompt": "hello", "logprobs": 2},
    "streamed logprobs": {**OPENAI, "prompt": "hello", "logprobs": 1, "stream": True},
    "echo": {**OPENAI, "prompt": "hello", "echo": True},
    "echoed logprobs": {**OPENAI, "prompt": "hello", "echo": True, "logprobs": 1},
    "token ids": {**OPENAI, "prompt": "hello", "return_token_ids": True},
    "empty": {**OPENAI, "prompt": ""},
    "no prompt": OPENAI,
    "too long": {**OPENAI, "prompt": LONG},
    "too long, streamed": {**OPENAI, "prompt": LONG, "stream": True},
    "cold": {**OPENAI, "prompt": "a", "temperature": -1},
    "length in words": {**OPENAI, "prompt": "a", "max_tokens": "abc"},
    "no length": {**OPENAI, "prompt": "a", "max_tokens": 0},
    "half a body": b'{"x',
}
CHAT = {
    "text": {**OPENAI, "messages": HELLO},
    "stream": {**OPENAI, "messages": HELLO, **WHOLE, "stream": True},
    "stream with usage": {**OPENAI, "messages": HELLO, **WHOLE, "stream": True, "stream_options": USAGE},
    "stream with all usage": {**OPENAI, "messages": HELLO, **WHOLE, "stream": True, "stream_options": EVERY_USAGE},
    "uncached usage": {**OPENAI, **UNCACHED, "messages": HELLO, **WHOLE, "stream": True, "stream_options": USAGE},
    "uncached all usage": {
        **OPENAI,
        **UNCACHED_TOO,
        "messages": HELLO,
        **WHOLE,
        "stream": True,
        "stream_options": EVERY_USAGE,
    },
    "logprobs": {**OPENAI, "messages": HELLO, "logprobs": True, "top_logprobs": 2},
    "streamed logprobs": {**OPENAI, "messages": HELLO, **WHOLE, "logprobs": True, "top_logprobs": 2, "stream": True},
    "new length": {"model": "x", "messages": HELLO, "max_completion_tokens": 2, "temperature": 0, "ignore_eos": True},
    "ids": {**OPENAI, "messages": HELLO, "input_ids": [10, 11, 12]},
    "parts": {**OPENAI, "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
    "no length": {**OPENAI, "messages": HELLO, "max_tokens": 0},
    "no limit": {"model": "x", "messages": [{"role": "user", "content": "a" * 2000}], "temperature": 0, **WHOLE},
    "fewer than none": {**OPENAI, "messages": HELLO, "max_tokens": -1},
    "empty": {**OPENAI, "messages": []},
    "no messages": OPENAI,
    "nobody": {**OPENAI, "messages": [{"role": "nobody", "content": "a"}]},
    "role of some versions": {**OPENAI, "messages": [{"role": "root", "content": "a"}], "input_ids": [20, 21, 22]},
    "too long": {**OPENAI, "messages": [{"role": "user", "content": "a" * 3000}]},
    "too long, streamed": {**OPENAI, "messages": [{"role": "user", "content": "a" * 3000}], "stream": True},
}
ENDPOINTS = {"/generate": GENERATE, "/v1/completions": COMPLETIONS, "/v1/chat/completions": CHAT}
QUESTIONS: list[tuple[str, str, Any]] = [
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/nobody", None),
    ("GET", "/v1/loads", None),
    ("GET", "/v1/loads?include=core", None),
    ("GET", "/v1/loads?include=nothing", None),
    ("GET", "/v1/loads?dp_rank=3", None),
    ("GET", "/health", None),
    ("GET", "/ready", None),
    ("GET", "/flush_cache?timeout=10", None),
    ("POST", "/flush_cache?timeout=-1", None),
    ("POST", "/abort_request", {"rid": "nobody"}),
    ("POST", "/abort_request", {}),
    ("POST", "/tokenize", {"model": "x", "prompt": "hello"}),
    ("POST", "/tokenize", {"model": "x", "prompt": ["a", "bc"]}),
    ("POST", "/v1/tokenize", {"model": "x", "messages": HELLO}),
    ("POST", "/tokenize", {"model": "x"}),
    ("GET", "/nothing", None),
    ("GET", "/generate", None),
    ("GET", "/", None),
    ("POST", "/v1/completions", None),
]
# values that must be equal on two servers; of all others only the JSON type counts
EXACT = frozenset(
    (
        "type",
        "code",
        "object",
        "param",
        "role",
        "index",
        "finish_reason",
        "matched_stop",
        "length",
        "start",
        "end",
        "version",
        "weight_version",
        "model",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cached_tokens",
        "cached_tokens_details",
        "reasoning_tokens",
        "num_retractions",
        "output_token_logprobs_length",
        "status_code",
        "err_type",
        "count",
        "max_model_len",
        "detail",
        "dp_rank",
        "retryable",
    )
)


@dataclass(frozen=True)
class Pair:
    """A prefill and a decode worker."""

    prefill: str
    decode: str
    bootstrap_port: int


@pytest.fixture
async def real(deployment: Deployment) -> Pair:
    return await _pair(deployment, "llama-a-0", "llama-base-0")


async def _pair(deployment: Deployment, *names: str) -> Pair:
    prefill, decode = (deployment.process(name).url for name in names)
    async with httpx.AsyncClient(headers=deployment.headers) as client:
        card = (await client.get(f"{prefill}/sun/worker")).json()
    return Pair(prefill, decode, card["bootstrap_port"])


@pytest.fixture
async def emulated(models: Path) -> AsyncIterator[Pair]:
    async with _emulated(models) as pair:
        yield pair


@asynccontextmanager
async def _emulated(models: Path, *more: str) -> AsyncIterator[Pair]:
    """Yield an emulated pair on the same checkpoints, which give the identity and the limits; a byte is a token in
    both.

    It emulates the version of SGLang that is installed, or the newest that the emulator has, so that every difference
    of a newer one is a failure.
    """
    port = next(PORTS)
    installed = installed_version()
    flags = ["--sim-sglang", installed if installed in SHAPES else NEWEST_VERSION]
    flags += ["--dtype", PRECISION.dtype, "--max-total-tokens", "16384", "--sim-bytes-per-token", "1", *more]
    prefill = ["--model-path", str(models / "llama-a"), "--served-model-name", "llama-a", *flags]
    prefill += ["--disaggregation-mode", "prefill", "--disaggregation-bootstrap-port", str(port)]
    decode = ["--model-path", str(models / "llama-base"), "--served-model-name", "llama-base", *flags]
    decode += ["--disaggregation-mode", "decode", "--disaggregation-decode-enable-radix-cache"]
    workers = [EmulatedWorker(parse_settings(argv)) for argv in (prefill, decode)]
    for worker in workers:
        await worker.start()
    urls = [f"http://127.0.0.1:{worker.server.port}" for worker in workers]
    yield Pair(urls[0], urls[1], port)
    for worker in workers:
        await worker.stop()


@pytest.fixture
async def real_lora(deployment: Deployment) -> Pair:
    """Return SGLang's workers that accept LoRA adapters."""
    return await _pair(deployment, "spare-a-0", "uncached-0")


@pytest.fixture
async def emulated_lora(models: Path) -> AsyncIterator[Pair]:
    """Yield an emulated pair that accepts the same adapters."""
    flags = ["--enable-lora", "--lora-target-modules", "all"]
    for name in ("max_lora_rank", "max_loras_per_batch"):
        flags += ["--" + name.replace("_", "-"), str(ADAPTERS[name])]
    async with _emulated(models, *flags) as pair:
        yield pair


@pytest.fixture
async def raw(deployment: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    # an unhandled error closes SGLang's connection after the reply: none is used twice
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=60, limits=limits, headers=deployment.headers) as client:
        yield client


async def ask(client: httpx.AsyncClient, pair: Pair, path: str, body: dict[str, Any] | bytes) -> list[Any]:
    """Send both legs as a router does, the prefill leg unstreamed; return the shapes of both replies."""
    bodies = [body, body]
    if isinstance(body, dict):
        meeting = {
            "bootstrap_host": "127.0.0.1",
            "bootstrap_port": pair.bootstrap_port,
            "bootstrap_room": random.getrandbits(62) + 1,
        }
        both = {**meeting, **body}
        bodies = [{**{k: v for k, v in both.items() if k != "stream_options"}, "stream": False}, both]
    replies = await asyncio.gather(
        *(send(client, url + path, leg) for url, leg in zip((pair.prefill, pair.decode), bodies, strict=True))
    )
    return [reply_shape(reply) for reply in replies]


async def send(client: httpx.AsyncClient, url: str, body: dict[str, Any] | bytes) -> httpx.Response:
    """Post a body. A reply that is broken off becomes a plain text that reports it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    received = b""
    async with client.stream("POST", url, content=content, headers={"Content-Type": "application/json"}) as reply:
        kind = reply.headers.get("content-type", "")
        try:
            async for chunk in reply.aiter_bytes():
                received += chunk
        except httpx.RemoteProtocolError:
            return httpx.Response(reply.status_code, text=f"{kind} broken off after {received!r}")
    return httpx.Response(reply.status_code, headers={"content-type": kind} if kind else None, content=received)


def reply_shape(reply: httpx.Response) -> Any:
    kind = reply.headers.get("content-type", "").split(";")[0]
    if kind == "text/event-stream":
        return reply.status_code, kind, stream_shape(reply.text)
    if kind == "application/json":
        return reply.status_code, kind, shape(reply.json(), lengths=True)
    # plain text: SGLang names no content type for some of it, which an aiohttp server always does
    return reply.status_code, reply.text


def stream_shape(text: str) -> list[Any]:
    """Return the shapes of a stream's events, repetitions once: the number of tokens in one event is random."""
    assert text.endswith("data: [DONE]\n\n")
    events = text.removesuffix("\n\n").split("\n\n")
    assert all(e.startswith("data: ") for e in events)
    shapes: list[Any] = []
    for event in events[:-1]:
        looks = shape(json.loads(event.removeprefix("data: ")), lengths=False, streamed=event != events[-2])
        if looks not in shapes:
            shapes.append(looks)
    return shapes


def shape(value: Any, *, lengths: bool, streamed: bool = False, key: str = "") -> Any:
    """Return a reply without the values that may differ; in a stream (`streamed`) growing counts may differ too."""
    if isinstance(value, dict):
        if key == "top_logprobs":
            return {"token": "float"}
        return {k: shape(v, lengths=lengths, streamed=streamed, key=k) for k, v in sorted(value.items())}
    if isinstance(value, list) and key != "decode_moments":
        inner = [shape(v, lengths=lengths, streamed=streamed, key=key) for v in value]
        distinct = sorted({json.dumps(i) for i in inner})
        return [len(value) if lengths and key != "bytes" else "some" if value else "none", *distinct]
    if key == "decode_moments":
        return "counters of real steps, null where there are none"
    growing = key in ("completion_tokens", "total_tokens", "output_token_logprobs_length")
    if key in EXACT and not (streamed and growing):
        return value
    if key in ("message", "error", "error_message") and isinstance(value, str):
        return message_shape(value)
    return type(value).__name__


def message_shape(text: str) -> str:
    """Return a message without ids and names of adapters.

    A validation error is returned without the details that pydantic and FastAPI add.
    """
    if re.match(r"\d+ validation error", text):
        return "validation error"
    # the names of adapters that other tests loaded
    text = re.sub(r"dict_keys\(\[.*?\]\)", "dict_keys(...)", text)
    return re.sub(r"(rid=|room=)('[^']*'|\d+)", r"\1...", text)


async def agree(client: httpx.AsyncClient, real: Pair, emulated: Pair, path: str, *, decode_first: bool) -> None:
    """Compare every case of an endpoint in turn, in one empty cache namespace.

    Args:
        client: without connections that stay open.
        real: SGLang's workers.
        emulated: the emulated workers.
        path: the endpoint.
        decode_first: the decode worker makes the first token.
    """
    namespace = uuid.uuid4().hex
    different = {}
    for name, body in ENDPOINTS[path].items():
        sent = {"extra_key": namespace, **body} if isinstance(body, dict) else body
        if decode_first and isinstance(sent, dict):
            sent = marked(sent)
        theirs, ours = [await ask(client, pair, path, sent) for pair in (real, emulated)]
        if theirs != ours:
            different[name] = {"real": theirs, "emulated": ours}
    assert not different, json.dumps(different, indent=1)


def marked(body: dict[str, Any]) -> dict[str, Any]:
    """Return a case whose first token the decode worker makes, with a prompt of two tokens in the place of one.

    Its namespace is its own: the real workers keep what the cases of the other mode left in their caches.
    """
    longer = {"input_ids": [10, 11]} if body.get("input_ids") == [10] else {}
    longer |= {"prompt": "ab"} if body.get("prompt") == "a" else {}
    return {**body, **longer, "extra_key": mark_decode_first(f"{body['extra_key']}-marked")}


@pytest.mark.parametrize("decode_first", [False, True])
@pytest.mark.parametrize("path", list(ENDPOINTS))
async def test_answers_and_refusals_agree(
    raw: httpx.AsyncClient, real: Pair, emulated: Pair, path: str, decode_first: bool
) -> None:
    await agree(raw, real, emulated, path, decode_first=decode_first)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/generate", {"input_ids": [10], "sampling_params": GREEDY}),
        ("/v1/completions", {**OPENAI, "prompt": "a"}),
        ("/v1/chat/completions", {**OPENAI, "messages": HELLO, "input_ids": [10]}),
    ],
)
async def test_refusals_of_a_prompt_of_one_token_agree_where_the_decode_worker_makes_the_first(
    raw: httpx.AsyncClient, real: Pair, emulated: Pair, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    body = {**prompt, "stream": stream, "extra_key": mark_decode_first("x")}
    theirs, ours = [await ask(raw, pair, path, body) for pair in (real, emulated)]
    assert theirs == ours
    assert theirs[0][0] == 400
    assert ONE_TOKEN in json.dumps(theirs)


@pytest.mark.parametrize(("method", "path", "body"), QUESTIONS)
async def test_other_endpoints_agree(
    raw: httpx.AsyncClient, real: Pair, emulated: Pair, method: str, path: str, body: Any
) -> None:
    for side in ("prefill", "decode"):
        replies = [await raw.request(method, getattr(pair, side) + path, json=body) for pair in (real, emulated)]
        theirs, ours = map(reply_shape, replies)
        assert theirs == ours, side


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(ENDPOINTS))
async def test_aborts_agree(raw: httpx.AsyncClient, real: Pair, emulated: Pair, path: str, stream: bool) -> None:
    """A leg that waits for its other half is aborted: the same error, in the same shape, on either side."""
    for side in ("prefill", "decode"):
        theirs, ours = [await abort_waiting(raw, pair, side, path, stream=stream) for pair in (real, emulated)]
        assert theirs == ours, side


async def abort_waiting(client: httpx.AsyncClient, pair: Pair, side: str, path: str, *, stream: bool) -> Any:
    rid = uuid.uuid4().hex
    url = getattr(pair, side)
    prompt = {"/generate": {"text": "hello", "sampling_params": GREEDY}}.get(path, {**OPENAI, "prompt": "hello"})
    body = {
        **prompt,
        "messages": HELLO,
        "rid": rid,
        "stream": stream,
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": pair.bootstrap_port,
        "bootstrap_room": random.getrandbits(62) + 1,
    }
    waiting = asyncio.create_task(send(client, url + path, body))
    queue = "prefill_bootstrap_queue_reqs" if side == "prefill" else "decode_transfer_queue_reqs"
    async with asyncio.timeout(30):
        while not (await client.get(f"{url}/v1/loads")).json()["loads"][0]["disaggregation"][queue]:
            await asyncio.sleep(0.01)
    await client.post(f"{url}/abort_request", json={"rid": rid})
    return reply_shape(await waiting)


async def test_an_abort_takes_longer_ids_with_it_and_an_unknown_id_takes_none(
    raw: httpx.AsyncClient, real: Pair, emulated: Pair
) -> None:
    """SGLang's prefix matching, as it is: only an id that is under way itself aborts those that begin with it."""
    for pair in (real, emulated):
        rid = uuid.uuid4().hex
        waits = [
            asyncio.create_task(send(raw, f"{pair.decode}/generate", lonely(pair, rid + suffix)))
            for suffix in ("a", "ab")
        ]
        async with asyncio.timeout(30):
            while await transferring(raw, pair) < len(waits):
                await asyncio.sleep(0.01)
        await raw.post(f"{pair.decode}/abort_request", json={"rid": rid})
        assert await transferring(raw, pair) == len(waits), "an unknown id"
        await raw.post(f"{pair.decode}/abort_request", json={"rid": rid + "a"})
        assert [reply.status_code for reply in await asyncio.gather(*waits)] == [500, 500]


def lonely(pair: Pair, rid: str) -> dict[str, Any]:
    """Return a request that only the decode worker receives."""
    return {
        "rid": rid,
        "text": "hello",
        "sampling_params": GREEDY,
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": pair.bootstrap_port,
        "bootstrap_room": random.getrandbits(62) + 1,
    }


async def transferring(client: httpx.AsyncClient, pair: Pair) -> int:
    load = (await client.get(f"{pair.decode}/v1/loads")).json()["loads"][0]
    return int(load["disaggregation"]["decode_transfer_queue_reqs"])


async def test_decode_steps_of_an_answer_are_reported_with_their_batch(
    raw: httpx.AsyncClient, real: Pair, emulated: Pair
) -> None:
    body = {"input_ids": list(range(5, 25)), "sampling_params": {**GREEDY, "max_new_tokens": 40}}
    for pair in (real, emulated):
        await ask(raw, pair, "/generate", body)
        before = await decode_totals(raw, pair)
        await ask(raw, pair, "/generate", body)
        after = await decode_totals(raw, pair)
        # SGLang leaves out a step that follows something else, and one that took very long
        steps = after.steps - before.steps
        assert 0 < steps <= 45
        assert after.requests - before.requests == steps
        # the emulated workers here take no time
        assert (after.seconds > before.seconds) == (pair is real)
        assert after.kv_tokens == before.kv_tokens > 0


async def decode_totals(client: httpx.AsyncClient, pair: Pair) -> DecodeTotals:
    found = parse_load((await client.get(f"{pair.decode}/v1/loads?include=core")).content).decode
    assert found is not None
    return found


async def test_cards_agree(raw: httpx.AsyncClient, real: Pair, emulated: Pair) -> None:
    for side in ("prefill", "decode"):
        theirs, ours = [(await raw.get(f"{getattr(pair, side)}/sun/worker")).json() for pair in (real, emulated)]
        assert theirs.keys() == ours.keys()
        for name in ("role", "max_input_tokens", "context_length", "kv_tokens"):
            assert theirs[name] == ours[name], name
        assert {**theirs["identity"], "page_size": 0} == {**ours["identity"], "page_size": 0}


async def test_loads_and_unloads_of_adapters_and_requests_for_them_agree(
    raw: httpx.AsyncClient, real_lora: Pair, emulated_lora: Pair, models: Path, tmp_path: Path
) -> None:
    good, big = (write_adapter(tmp_path / f"r{rank}", models / "llama-a", 77, rank=rank) for rank in (4, 16))
    (tmp_path / "empty").mkdir()
    ref = read_adapter(good)
    request = {"input_ids": [10, 11, 12], "sampling_params": GREEDY, "extra_key": uuid.uuid4().hex}
    use, own = {**request, "lora_path": "conform"}, {"lora_name": "conform"}
    # in this order
    steps: list[tuple[str, dict[str, Any]]] = [
        ("/generate", use),
        ("/v1/completions", {**OPENAI, "prompt": "a", "lora_path": "conform"}),
        ("/v1/chat/completions", {**OPENAI, "messages": HELLO, "model": "x:conform"}),
        ("/unload_lora_adapter", own),
        ("/load_lora_adapter", {}),
        ("/load_lora_adapter", {"lora_name": 1, "lora_path": "x"}),
        ("/load_lora_adapter", {**own, "lora_path": str(tmp_path / "nothing")}),
        ("/load_lora_adapter", {**own, "lora_path": str(tmp_path / "empty")}),
        ("/load_lora_adapter", {**own, "lora_path": str(big)}),
        ("/load_lora_adapter", {**own, "lora_path": str(good)}),
        ("/load_lora_adapter", {**own, "lora_path": str(good)}),
        ("/generate", {**use, "return_logprob": True, "logprob_start_len": 0}),
        ("/generate", {**use, "lora_path": None}),
        ("/v1/completions", {**OPENAI, "prompt": "a", "lora_path": "conform"}),
        ("/v1/chat/completions", {**OPENAI, **WHOLE, "messages": HELLO, "model": "x:conform"}),
        ("/v1/models", {}),
        ("/v1/loads", {}),
        ("/unload_lora_adapter", own),
        ("/generate", use),
        ("/unload_lora_adapter", own),
        ("/unload_lora_adapter", own),
        # names of the router's, which stand for a content
        ("/load_lora_adapter", {"lora_name": f"{NAME_PREFIX}{'0' * 16}", "lora_path": str(good)}),
        ("/load_lora_adapter", {"lora_name": ref.name, "lora_path": str(tmp_path / "nothing")}),
        ("/load_lora_adapter", {"lora_name": ref.name, "lora_path": str(good)}),
        ("/generate", {**request, "lora_path": ref.name}),
        ("/load_lora_adapter", {"lora_name": ref.name, "lora_path": str(good)}),
    ]
    different = {}
    for number, (path, body) in enumerate(steps):
        theirs, ours = [await step(raw, pair, path, body, {ref.name}) for pair in (real_lora, emulated_lora)]
        if theirs != ours:
            different[f"{number} {path}"] = {"real": theirs, "emulated": ours}
    assert not different, json.dumps(different, indent=1)
    for side in ("prefill", "decode"):
        pages = [(await raw.get(f"{getattr(p, side)}{ADAPTERS_PATH}")).json() for p in (real_lora, emulated_lora)]
        for page in pages:
            assert page.keys() == {"resident", "cold"}
            assert ref.name in page["resident"]
            assert {n: page["cold"][n]["loads"] for n in ("conform", ref.name)} == {"conform": 2, ref.name: 1}
        await raw.post(f"{getattr(real_lora, side)}/unload_lora_adapter", json={"lora_name": ref.name})


def own_adapters(value: Any, own: set[str]) -> Any:
    """Return a reply without the adapters of the deployment's tasks, which its router loads and unloads meanwhile."""
    if isinstance(value, dict):
        return {k: own_adapters(v, own) for k, v in value.items() if not k.startswith(NAME_PREFIX) or k in own}
    if isinstance(value, list):
        others = (v.get("id") if isinstance(v, dict) else None for v in value)
        kept = [not str(name).startswith(NAME_PREFIX) or name in own for name in others]
        return [own_adapters(v, own) for v, keep in zip(value, kept, strict=True) if keep]
    return value


async def step(client: httpx.AsyncClient, pair: Pair, path: str, body: dict[str, Any], own: set[str]) -> Any:
    """Send one step to both workers of a pair; return the shapes of their replies, without adapters but `own`."""
    if path in ENDPOINTS:
        return await ask(client, pair, path, body)
    replies = []
    for url in (pair.prefill, pair.decode):
        reply = await (client.get(url + path) if path.startswith("/v1/") else send(client, url + path, body))
        kind, text = reply.headers.get("content-type", ""), reply.text
        found = shape(own_adapters(reply.json(), own), lengths=True) if kind == "application/json" else text
        replies.append((reply.status_code, kind, found))
    return replies
