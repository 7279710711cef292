"""A pair of emulated workers of which the decode worker makes the first token."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sun_sglang.contracts.first_token import ONE_TOKEN, mark_decode_first
from sun_sglang.emulator.protocol.fake_tokens import expected_tokens
from sun_sglang.emulator.worker import EmulatedWorker
from tests.support.emulator import VOCAB, Start, ask, at_rest, expected, legs, post

PROMPT = [5, 6, 7, 8]
MARKED = {"extra_key": mark_decode_first("space")}


@pytest.fixture
async def pair(start: Start) -> tuple[EmulatedWorker, EmulatedWorker]:
    return await start("prefill", "none/math"), await start("decode", "none/base")


def made(pair: tuple[EmulatedWorker, EmulatedWorker], prompt: list[int], length: int) -> list[int]:
    prefill, decode = (worker.card.identity.weights for worker in pair)
    return expected_tokens(prefill, prompt, length, VOCAB, decoder=decode)


async def test_marked_request_is_answered_with_tokens_of_both_modules_and_others_as_before(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession
) -> None:
    for extra_key in (MARKED, {"extra_key": "space"}, MARKED):
        (status, prefilled), (other, decoded) = await ask(client, *pair, PROMPT, 6, **extra_key)
        assert (status, other) == (200, 200)
        right = made(pair, PROMPT, 6) if extra_key is MARKED else expected(pair[0], PROMPT, 6)
        assert decoded["output_ids"] == right
        assert decoded["meta_info"]["prompt_tokens"] == len(PROMPT)
        assert prefilled["meta_info"]["prompt_tokens"] == len(PROMPT) - (extra_key is MARKED)
    assert at_rest(*pair)


async def test_caches_hold_the_prompt_without_its_last_token_in_the_namespace_of_both_modes(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession
) -> None:
    found = []
    for fields in (MARKED, MARKED, {"extra_key": "space"}, MARKED):
        _, (_, decoded) = await ask(client, *pair, PROMPT, 2, **fields)
        meta = decoded["meta_info"]
        found.append((meta["cached_tokens"], (meta["cached_tokens_details"] or {}).get("decode", 0)))
    assert found == [(0, 0), (2, 3), (3, 3), (2, 3)]


async def test_logprobs_are_those_of_the_whole_prompt_and_of_every_token(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession
) -> None:
    wanted: dict[str, Any] = {"return_logprob": True, "logprob_start_len": 0, "token_ids_logprob": [3]}
    (_, prefilled), (_, decoded) = await ask(client, *pair, PROMPT, 3, **wanted, **MARKED)
    assert [token for _, token, _ in prefilled["meta_info"]["input_token_logprobs"]] == PROMPT
    assert all(decoded["meta_info"]["output_token_ids_logprobs"]), "the first row, too"


async def test_answer_that_fills_the_context_has_the_same_length_in_both_modes(
    start: Start, client: aiohttp.ClientSession
) -> None:
    pair = [await start(role, "none/math", context_length=64) for role in ("prefill", "decode")]
    made = []
    for fields in (MARKED, {"extra_key": "space"}):
        _, (status, reply) = await ask(client, *pair, list(range(40)), 24, **fields)
        assert status == 200
        made.append(reply["meta_info"]["completion_tokens"])
    assert made == [22, 22]


@pytest.mark.parametrize("role", [0, 1])
async def test_marked_prompt_of_one_token_is_refused_by_either_worker(
    pair: tuple[EmulatedWorker, EmulatedWorker], client: aiohttp.ClientSession, role: int
) -> None:
    status, reply = await post(client, pair[role], legs(pair[0], [5], 2, **MARKED))
    assert status == 400
    assert ONE_TOKEN in str(reply)
    assert at_rest(*pair)


async def test_more_marked_requests_than_kv_wait_or_lose_their_kv_and_are_all_right(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    costs = tmp_path / "costs.yaml"
    costs.write_text("{decode_step: 0.001}")
    pair = await start("prefill", "none/math"), await start("decode", "none/base", max_total_tokens=64, costs=costs)
    prompts = [[i, 6, 7, 8] for i in range(8)]
    replies = await asyncio.gather(*(ask(client, *pair, prompt, 20, **MARKED) for prompt in prompts))
    for prompt, (_, (status, reply)) in zip(prompts, replies, strict=True):
        assert status == 200
        assert reply["output_ids"] == made(pair, prompt, 20)
    assert at_rest(*pair)
