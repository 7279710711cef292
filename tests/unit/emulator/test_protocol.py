"""Two legs over loopback: the messages that each side receives from the other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp

from sun_sglang.bench.polling import wait_until
from tests.support.emulator import Start, ask, at_rest, expected, legs, post, url

PROMPT = [3, 1, 4, 1, 5]


async def test_a_pair_answers_with_what_the_prefill_workers_weights_say(
    start: Start, client: aiohttp.ClientSession
) -> None:
    a, b, decode = [await start("prefill", "a"), await start("prefill", "b"), await start("decode", "base")]
    # five requests of each at once, so that a mix-up would show
    both = await asyncio.gather(*(ask(client, p, decode, [i, *PROMPT], 20) for i in range(5) for p in (a, b)))
    for i, ((_, first), (status, second)) in enumerate(both):
        tokens = expected((a, b)[i % 2], [i // 2, *PROMPT], 20)
        assert status == 200
        assert first["output_ids"] == tokens[:1]
        assert second["output_ids"] == tokens
        assert second["meta_info"]["finish_reason"] == {"type": "length", "length": 20}
    assert expected(a, PROMPT, 5) != expected(b, PROMPT, 5)
    await wait_until(lambda: at_rest(a, b, decode))


async def test_a_stream_grows_a_token_at_a_time(start: Start, client: aiohttp.ClientSession) -> None:
    prefill, decode = await start("prefill", "a"), await start("decode", "base")
    body = legs(prefill, PROMPT, 6)
    leg = asyncio.create_task(post(client, prefill, body))
    async with client.post(f"{url(decode)}/generate", json={**body, "stream": True}) as reply:
        events = (await reply.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    grown = [json.loads(e.removeprefix("data: "))["output_ids"] for e in events[:-2]]
    assert grown == [expected(prefill, PROMPT, 6)[:n] for n in range(1, 7)]
    assert (await leg)[0] == 200


async def test_cached_tokens_of_both_legs_are_the_prefill_workers_hits_in_the_namespace(
    start: Start, client: aiohttp.ClientSession
) -> None:
    prefill, decode = await start("prefill", "a"), await start("decode", "base")
    cached, details = [], []
    for key in ("x", "x", "y"):
        metas = [reply["meta_info"] for _, reply in await ask(client, prefill, decode, PROMPT, 2, extra_key=key)]
        cached.append([meta["cached_tokens"] for meta in metas])
        details.append(metas[1]["cached_tokens_details"])
    hits = len(PROMPT) - 1
    assert cached == [[0, 0], [hits, hits], [0, 0]]
    assert details == [None, {"device": hits, "host": 0, "decode": len(PROMPT)}, None]


async def test_cached_tokens_are_zero_for_a_prompt_that_only_the_decode_worker_holds(
    start: Start, client: aiohttp.ClientSession
) -> None:
    first, second = await start("prefill", "a"), await start("prefill", "a")
    decode = await start("decode", "base")
    await ask(client, first, decode, PROMPT, 2)
    _, (_, reply) = await ask(client, second, decode, PROMPT, 2)
    assert reply["meta_info"]["cached_tokens"] == 0
    assert reply["meta_info"]["cached_tokens_details"] == {"device": 0, "host": 0, "decode": len(PROMPT)}


async def test_a_stop_string_ends_an_answer_before_it(start: Start, client: aiohttp.ClientSession) -> None:
    prefill, decode = await start("prefill", "a"), await start("decode", "base")
    _, (_, whole) = await ask(client, prefill, decode, PROMPT, 6)
    words = whole["text"].split()
    sampling = {"max_new_tokens": 6, "stop": [" " + words[3]]}
    _, (_, cut) = await ask(client, prefill, decode, PROMPT, 6, sampling_params=sampling)
    assert cut["text"].split() == words[:3]
    assert cut["meta_info"]["finish_reason"] == {"type": "stop", "matched": " " + words[3]}
    await wait_until(lambda: at_rest(prefill, decode))


async def test_a_decode_leg_without_its_prefill_leg_waits_and_fails(
    start: Start, client: aiohttp.ClientSession
) -> None:
    prefill, decode = await start("prefill", "a"), await start("decode", "base", waiting_timeout=0.1)
    status, reply = await post(client, decode, legs(prefill, PROMPT, 2))
    assert status == 500
    assert "Decode transfer failed" in reply["message"]
    assert "timed out" in reply["message"]
    await wait_until(lambda: at_rest(prefill, decode))


async def test_a_prefill_leg_without_its_decode_leg_waits_and_fails(
    start: Start, client: aiohttp.ClientSession
) -> None:
    prefill = await start("prefill", "a", bootstrap_timeout=0.1)
    status, reply = await post(client, prefill, legs(prefill, PROMPT, 2))
    assert status == 500
    assert "Prefill bootstrap failed" in reply["message"]
    await wait_until(lambda: at_rest(prefill))


async def test_a_lost_prefill_worker_is_noticed_by_heartbeats(start: Start, client: aiohttp.ClientSession) -> None:
    prefill, decode = await start("prefill", "a"), await start("decode", "base", heartbeat_interval=0.05)
    waiting = asyncio.create_task(post(client, decode, legs(prefill, PROMPT, 2)))
    await wait_until(lambda: decode.engine.load()["decode_transfer_queue_reqs"] == 1)
    await prefill.stop()
    status, reply = await waiting
    assert status == 500
    assert "Lost connection with prefill instance" in reply["message"]
    await wait_until(lambda: at_rest(decode))


async def test_an_address_where_nobody_listens_is_asked_a_few_times(
    start: Start, client: aiohttp.ClientSession
) -> None:
    prefill, decode = await start("prefill", "a"), await start("decode", "base")
    status, reply = await post(client, decode, legs(prefill, PROMPT, 2, bootstrap_port=1))
    assert status == 500
    assert "Decode handshake failed" in reply["message"]
    assert (await ask(client, prefill, decode, PROMPT, 2))[1][0] == 200


async def test_a_black_hole_stalls_every_task_while_it_is_asked(start: Start, client: aiohttp.ClientSession) -> None:
    hole = await start("prefill", "a", fault='{"kind": "blackhole_bootstrap"}')
    good, decode = await start("prefill", "b"), await start("decode", "base", lookup_timeout=3, lookup_attempts=1)
    assert (await ask(client, good, decode, PROMPT, 2))[1][0] == 200
    order = []

    async def note(name: str, body: dict[str, object]) -> int:
        status, _ = await post(client, decode, body)
        order.append(name)
        return status

    body = legs(good, PROMPT, 2)
    lost = asyncio.create_task(note("lost", legs(hole, PROMPT, 2)))
    await wait_until(lambda: decode.engine.load()["decode_prealloc_queue_reqs"] == 1)
    others = [asyncio.create_task(note("good", body)), asyncio.create_task(post(client, good, body))]
    assert await lost == 500
    await asyncio.gather(*others)
    assert order == ["lost", "good"]


async def test_an_abort_travels_from_decode_to_prefill(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    costs = tmp_path / "slow.yaml"
    costs.write_text("prefill: 1000")
    prefill, decode = await start("prefill", "a", costs=costs), await start("decode", "base")
    body = legs(prefill, PROMPT, 2)
    waiting = [asyncio.create_task(post(client, worker, body)) for worker in (prefill, decode)]
    await wait_until(lambda: prefill.engine.load()["running"] == 1)
    await client.post(f"{url(decode)}/abort_request", json={"rid": body["rid"]})
    (first, failed), (second, _) = await asyncio.gather(*waiting)
    assert (first, second) == (500, 500)
    assert "Prefill transfer failed" in failed["message"]
    await wait_until(lambda: not prefill.engine.generations and at_rest(decode))
    assert prefill.engine.load()["used"] == 0


async def test_an_abort_does_not_travel_from_prefill_to_decode(start: Start, client: aiohttp.ClientSession) -> None:
    prefill = await start("prefill", "a")
    decode = await start("decode", "base", waiting_timeout=0.2)
    body = legs(prefill, PROMPT, 2)
    waiting = asyncio.create_task(post(client, prefill, body))
    await wait_until(lambda: len(prefill.engine.generations) == 1)
    await client.post(f"{url(prefill)}/abort_request", json={"rid": body["rid"]})
    assert (await waiting)[0] == 500
    status, reply = await post(client, decode, body)
    assert status == 500
    assert "timed out" in reply["message"], "only its own deadline tells the decode worker"


async def test_a_client_that_leaves_ends_its_legs(start: Start, client: aiohttp.ClientSession) -> None:
    prefill, decode = await start("prefill", "a"), await start("decode", "base")
    for stream in (False, True):
        body = {**legs(prefill, PROMPT, 2), "stream": stream}
        waiting = asyncio.create_task(post(client, decode, body))
        await wait_until(lambda: decode.engine.load()["decode_transfer_queue_reqs"] == 1)
        waiting.cancel()
        await wait_until(lambda: at_rest(decode))


async def test_more_requests_than_kv_wait_and_are_all_answered(start: Start, client: aiohttp.ClientSession) -> None:
    prefill, decode = await start("prefill", "a"), await start("decode", "base", max_total_tokens=64)
    prompts = [[i] * 20 for i in range(12)]
    replies = await asyncio.gather(*(ask(client, prefill, decode, p, 30) for p in prompts))
    assert [second["output_ids"] for _, (_, second) in replies] == [expected(prefill, p, 30) for p in prompts]
    await wait_until(lambda: at_rest(prefill, decode))


async def test_an_id_twice_at_once_is_refused(start: Start, client: aiohttp.ClientSession) -> None:
    prefill = await start("prefill", "a")
    body = legs(prefill, PROMPT, 2)
    waiting = asyncio.create_task(post(client, prefill, body))
    await wait_until(lambda: len(prefill.engine.generations) == 1)
    assert (await post(client, prefill, body))[0] == 400
    waiting.cancel()
