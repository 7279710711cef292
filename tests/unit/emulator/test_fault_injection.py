"""Every fault that an emulated worker simulates, as a client observes it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.emulator.fault_injection import Fault, FaultInjector
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.errors import TopologyError
from tests.support.emulator import Start, ask, at_rest, expected, flags, legs, post, url

PROMPT = [2, 7, 1, 8]


async def tell(client: aiohttp.ClientSession, worker: EmulatedWorker, **fault: Any) -> int:
    async with client.post(f"{url(worker)}/sun/fault", json=fault) as reply:
        return reply.status


@pytest.fixture
async def pair(start: Start) -> tuple[EmulatedWorker, EmulatedWorker]:
    return await start("prefill", "a"), await start("decode", "base")


Workers = tuple[EmulatedWorker, EmulatedWorker]


async def test_a_status_for_as_many_requests_as_told(pair: Workers, client: aiohttp.ClientSession) -> None:
    prefill, decode = pair
    assert await tell(client, prefill, kind="status", status=503, times=2) == 200
    body = legs(prefill, PROMPT, 2)
    assert [(await post(client, prefill, body))[0] for _ in range(2)] == [503, 503]
    assert (await ask(client, prefill, decode, PROMPT, 2))[1][0] == 200


async def test_an_abort_inside_a_200(pair: Workers, client: aiohttp.ClientSession) -> None:
    prefill, _ = pair
    await tell(client, prefill, kind="abort")
    status, reply = await post(client, prefill, legs(prefill, PROMPT, 2))
    assert status == 200
    assert reply["meta_info"]["finish_reason"]["type"] == "abort"


async def test_requests_that_a_fault_spares(pair: Workers, client: aiohttp.ClientSession) -> None:
    prefill, decode = pair
    await tell(client, prefill, kind="status", spare="sun-canary")
    assert (await ask(client, prefill, decode, PROMPT, 2, extra_key="x#sun-canary"))[1][0] == 200
    assert (await post(client, prefill, legs(prefill, PROMPT, 2)))[0] == 500


async def test_a_hang_answers_nothing_until_it_is_cleared(pair: Workers, client: aiohttp.ClientSession) -> None:
    prefill, decode = pair
    await tell(client, prefill, kind="hang")
    for path in ("/health", "/sun/worker"):
        with pytest.raises(TimeoutError):
            await client.get(url(prefill) + path, timeout=aiohttp.ClientTimeout(total=0.1))
    await tell(client, prefill, kind="clear")
    assert (await ask(client, prefill, decode, PROMPT, 2))[1][0] == 200


async def test_a_liar_is_healthy_and_answers_no_request(pair: Workers, client: aiohttp.ClientSession) -> None:
    prefill, _ = pair
    await tell(client, prefill, kind="unresponsive")
    assert (await client.get(f"{url(prefill)}/health")).status == 200
    body, timeout = legs(prefill, PROMPT, 2), aiohttp.ClientTimeout(total=0.1)
    with pytest.raises(TimeoutError):
        await client.post(f"{url(prefill)}/generate", json=body, timeout=timeout)


async def test_the_sick_serve(pair: Workers, client: aiohttp.ClientSession) -> None:
    prefill, decode = pair
    await tell(client, decode, kind="unhealthy")
    assert (await client.get(f"{url(decode)}/health")).status == 503
    assert (await ask(client, prefill, decode, PROMPT, 2))[1][0] == 200


async def test_a_refusal_closes_the_port_and_ends_by_itself(
    pair: Workers, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill, decode = pair
    seen, listen = asyncio.Event(), prefill.server._listen

    async def listen_once_it_was_seen() -> None:
        await seen.wait()
        await listen()

    monkeypatch.setattr(prefill.server, "_listen", listen_once_it_was_seen)
    assert await tell(client, prefill, kind="refuse", seconds=0.3) == 200

    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", prefill.server.port)
        except ConnectionRefusedError:
            return True
        writer.close()
        await writer.wait_closed()
        return False

    async with asyncio.timeout(60):
        while not await refused():
            await asyncio.sleep(0.001)
        seen.set()
        while await refused():
            await asyncio.sleep(0.01)
    assert (await ask(client, prefill, decode, PROMPT, 2))[1][0] == 200


async def test_a_slow_worker_takes_as_many_times_as_long(start: Start, tmp_path: Any) -> None:
    (tmp_path / "costs.yaml").write_text("prefill: 0.01")
    worker = await start("prefill", "a", costs=tmp_path / "costs.yaml", fault='{"kind": "slow", "factor": 7}')
    assert worker.engine.current_costs().prefill == pytest.approx(0.07)
    worker.faults.set(Fault(kind="clear"))
    assert worker.engine.current_costs().prefill == 0.01


async def test_answers_are_held_at_a_token_until_it_is_cleared(pair: Workers, client: aiohttp.ClientSession) -> None:
    prefill, decode = pair
    await tell(client, decode, kind="hold", token=3, spare="other")
    body = legs(prefill, PROMPT, 6)
    leg = asyncio.create_task(post(client, prefill, body))
    async with client.post(f"{url(decode)}/generate", json={**body, "stream": True}) as reply:
        for n in range(1, 4):
            event = json.loads((await reply.content.readuntil(b"\n\n")).removeprefix(b"data: "))
            assert event["output_ids"] == expected(prefill, PROMPT, n)
        # one that is spared overtakes it
        assert (await ask(client, prefill, decode, PROMPT, 6, extra_key="other"))[1][0] == 200
        assert decode.engine.load()["running"] == 1
        await tell(client, decode, kind="clear")
        rest = (await reply.text()).split("\n\n")
    assert rest[-2:] == ["data: [DONE]", ""]
    assert json.loads(rest[-3].removeprefix("data: "))["output_ids"] == expected(prefill, PROMPT, 6)
    assert (await leg)[0] == 200
    await wait_until(lambda: at_rest(prefill, decode))


async def test_an_answer_is_held_before_its_first_token_for_as_long_as_told(
    pair: Workers, client: aiohttp.ClientSession
) -> None:
    prefill, decode = pair
    decode.faults.set(Fault(kind="hold", token=0))
    asked = asyncio.create_task(ask(client, prefill, decode, PROMPT, 2))
    await wait_until(lambda: not prefill.engine.generations and decode.engine.load()["decode_transfer_queue_reqs"] == 1)
    await tell(client, decode, kind="hold", token=0, seconds=0.01)
    assert (await asked)[1][1]["output_ids"] == expected(prefill, PROMPT, 2)


async def test_a_fault_that_there_is_not(pair: Workers, client: aiohttp.ClientSession) -> None:
    assert await tell(client, pair[0], kind="sulk") == 400
    assert await tell(client, pair[0], kind="slow", factor=-1) == 400


def test_a_fault_is_over_after_its_time() -> None:
    now = 0.0
    faults = FaultInjector(lambda: now)
    faults.set(Fault(kind="slow", seconds=5))
    assert faults.active("slow") is not None
    assert faults.active("hang") is None
    now = 5.0
    assert faults.active("slow") is None


def test_a_wrong_flag_is_one_clear_error() -> None:
    with pytest.raises(TopologyError, match="--sim-heartbeat-interval"):
        parse_settings([*flags("decode", "base"), "--sim-heartbeat-interval", "-1"])
