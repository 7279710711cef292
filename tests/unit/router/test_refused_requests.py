"""Requests and workers that the router refuses."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import Start, System
from tests.unit.router.fake_worker import expected
from tests.unit.router.math_requests import ANSWER, IDS, MATH, ask


async def test_fault_15_a_reserved_field_that_is_null_is_dropped(small: System) -> None:
    assert await ask(small, stream=False, lora_path=None, bootstrap_host=None) == ANSWER
    assert "lora_path" not in small["base-0"].requests[0][1]


@pytest.mark.invariant("I9")
@pytest.mark.parametrize(
    "key", [{"extra_key": ""}, {"extra_key": "tool@w-tool"}, {"cache_salt": ""}, {"cache_salt": "s"}]
)
async def test_fault_16_a_clients_namespace_stays_within_its_task(small: System, key: dict[str, str]) -> None:
    assert await ask(small, stream=False, **key) == ANSWER
    assert await ask(small, stream=False, model="tool", **key) == expected("w-tool", "w-base", IDS, 4)
    for worker, own in (("math-0", "math@w-math"), ("tool-0", "tool@w-tool")):
        sent = small[worker].requests[-1][1]
        assert sent["extra_key"].startswith(own)
        assert "cache_salt" not in sent
    assert small["math-0"].requests[-1][1]["extra_key"] != small["tool-0"].requests[-1][1]["extra_key"]


async def test_fault_19_text_is_tokenized_only_where_it_may_be_too_long(small: System) -> None:
    status, _ = await small.post("/generate", {"model": "math", "text": "x" * 990})
    assert status == 200
    assert not small["math-0"].counted
    status, _ = await small.post("/generate", {"model": "math", "text": "longword " * 900})
    assert status == 200
    assert len(small["math-0"].counted) == 1
    assert (await small.post("/generate", {"model": "math", "input_ids": [1] * 1000}))[0] == 200


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"Content-Length: 9\r\nContent-Encoding: gzip\r\n", b"not gzip!", b" 415 "),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n", b" 400 "),
    ],
)
async def test_fault_20_a_body_that_cannot_be_read(small: System, head: bytes, body: bytes, status: bytes) -> None:
    url = aiohttp.typedefs.URL(small.router.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head + b"\r\n" + body)
    assert status in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert await ask(small, stream=False) == ANSWER
    assert "defect" not in small.log.getvalue()


async def test_fault_20_other_refusals(small: System, start: Start) -> None:
    chat = {"model": "math", "messages": [{"role": "user", "content": "x"}], "logprobs": True}
    assert (await small.post("/v1/chat/completions", {**chat, "top_logprobs": 129}))[0] == 400
    assert (await small.post("/v1/completions", {"model": "math", "prompt": "x", "logprobs": 129}))[0] == 400
    # found by the fuzzer: a worker fails on it
    assert (await small.post("/v1/completions", {"model": "math", "prompt": "x", "logprobs": []}))[0] == 400
    async with small.client.post("/generate", data=b"x=1") as r:
        assert r.status == 400
    status, reply = await small.post("/generate", {"model": "nope", "text": "x"})
    assert status == 404
    assert "math, tool" in reply["error"]["message"]
    assert (await small.post("/generate", {"text": "x"}))[0] == 400
    tiny = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, router={"max_body_mb": 0.001})
    status, reply = await tiny.post("/generate", {"model": "math", "text": "x" * 2000})
    assert status == 413
    assert "0.001 MiB" in reply["error"]["message"]
    assert not small["math-0"].requests


async def test_fault_21_members_of_a_pool_need_the_same_weights(start: Start) -> None:
    cards = {"math-1": {"identity": {"weights": "other"}}}
    system = await start({"math": ("math", "base")}, {"math": 2, "base": 1}, cards=cards, wait=False)
    await wait_until(lambda: any("weights differs" in w.reason for w in system.router.registry.workers.values()))
    await system.ready()
    assert len(system.router.registry.usable("math")) == 1


@pytest.mark.invariant("I12")
@pytest.mark.parametrize("state", ["missing", "moved", "inactive"])
async def test_fault_28_a_hook_that_did_not_take(start: Start, state: str) -> None:
    hook = {"name": "prompt-only-cache", "target": "a.b.c", "state": state, "detail": "no such method"}
    system = await start(
        {"math": ("math", "base")}, {"math": 1, "base": 1}, cards={"base-0": {"patches": [hook]}}, wait=False
    )
    await wait_until(lambda: system.router.registry.state("base-0") == "refused")
    reason = system.router.registry.workers["base-0"].reason
    assert reason == f"hook `prompt-only-cache` on a.b.c is {state}: no such method"
    assert (await system.post("/generate", MATH))[0] == 503
    _, tasks = await system.get("/tasks")
    assert tasks["tasks"]["math"]["decode"]["workers"][0]["reason"] == reason
    assert not system["base-0"].canaries
