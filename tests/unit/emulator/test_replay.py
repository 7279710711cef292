"""A pair of emulated workers that repeats tokens, and streams that report theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest

from sun_sglang.contracts.first_token import mark_decode_first
from sun_sglang.contracts.replay import mark_replay
from sun_sglang.emulator.protocol.fake_tokens import text_of
from sun_sglang.emulator.worker import EmulatedWorker
from tests.support.emulator import VOCAB, Start, ask, at_rest, expected, legs, url
from tests.support.token_reports import split_tokens

PROMPT = [5, 6, 7, 8]
GIVEN = [901, 902, 903]


@pytest.fixture
async def pair(start: Start) -> tuple[EmulatedWorker, EmulatedWorker]:
    return await start("prefill", "none/math"), await start("decode", "none/base")


async def streamed(
    client: aiohttp.ClientSession, pair: tuple[EmulatedWorker, EmulatedWorker], path: str, length: int, **fields: Any
) -> bytes:
    """Send both legs of a request whose decode leg streams, and return the stream."""
    prefill, decode = pair
    body = legs(prefill, PROMPT, length)
    match path:
        case "/v1/completions":
            body |= {"prompt": body.pop("input_ids"), "max_tokens": length, "model": "m"}
        case "/v1/chat/completions":
            del body["input_ids"]
            body |= {"messages": [{"role": "user", "content": "x"}], "max_tokens": length, "model": "m"}

    async def send(worker: EmulatedWorker, more: dict[str, Any]) -> bytes:
        async with client.post(url(worker) + path, json=body | more) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.read()

    _, stream = await asyncio.gather(send(prefill, {"extra_key": fields["extra_key"]}), send(decode, fields))
    return stream


@pytest.mark.parametrize("decode_first", [False, True])
async def test_given_tokens_stand_before_those_of_the_worker(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession, decode_first: bool
) -> None:
    key = mark_decode_first("space") if decode_first else "space"
    _, (_, free) = await ask(client, *pair, PROMPT, 6, extra_key=key)
    _, (_, replayed) = await ask(client, *pair, PROMPT, 6, extra_key=mark_replay(key, GIVEN))
    assert replayed["output_ids"] == GIVEN + free["output_ids"][3:]
    assert replayed["text"] == text_of(replayed["output_ids"])
    assert at_rest(*pair)


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
async def test_stream_with_the_mark_reports_each_token_before_its_event(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession, path: str
) -> None:
    fields: dict[str, Any] = {"extra_key": mark_replay("space"), "stream": True}
    stream = await streamed(client, pair, path, 5, **fields)
    reported: list[int] = []
    for event in stream.split(b"\n\n"):
        tokens, rest = split_tokens(event)
        reported += tokens or []
        if rest.startswith(b"data: {"):
            shown = orjson.loads(rest.removeprefix(b"data: "))
            text = shown["text"] if path == "/generate" else ""
            assert text == text_of(reported)[: len(text)]
    assert len(reported) == 5
    if path != "/v1/chat/completions":
        assert reported == expected(pair[0], PROMPT, 5)


async def test_stream_without_the_mark_has_no_comment(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession
) -> None:
    stream = await streamed(client, pair, "/generate", 3, extra_key="space", stream=True)
    assert b": tokens" not in stream


@pytest.mark.parametrize("key", [mark_replay("space", [VOCAB]), "@tokens:A@space"])
async def test_tokens_that_cannot_be_repeated_are_refused(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession, key: str
) -> None:
    (status, _), (other, _) = await ask(client, *pair, PROMPT, 3, extra_key=key)
    assert (status, other) == (400, 400)


async def test_requests_with_and_without_the_mark_share_the_cache(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession
) -> None:
    cached = []
    for key in ("space", mark_replay("space", GIVEN), mark_replay("space")):
        _, (_, reply) = await ask(client, *pair, PROMPT, 2, extra_key=key)
        cached.append(reply["meta_info"]["cached_tokens"])
    assert cached == [0, 3, 3]
