"""Faults that end the process of an emulated worker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from tests.support.emulator import Start, at_rest, flags, legs, post
from tests.support.ports import PORTS

PROMPT = [2, 7, 1, 8]


@contextmanager
def process(argv: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a worker in a process of its own, which it may end."""
    port = next(PORTS)
    command = [sys.executable, "-m", "sun_sglang.emulator.worker", *argv, "--port", str(port)]
    running = subprocess.Popen(command)
    try:
        yield running, f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


async def read(client: aiohttp.ClientSession, at: str, body: dict[str, Any], into: list[bytes]) -> None:
    """Read a stream as far as it goes."""
    async with client.post(at, json=body) as reply:
        async for piece in reply.content.iter_any():
            into.append(piece)  # noqa: PERF401 - what came before the connection broke counts


async def listening(client: aiohttp.ClientSession, at: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            try:
                async with client.get(f"{at}/sun/worker") as reply:
                    return dict(await reply.json())
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)


async def test_a_decode_worker_dies_at_a_token(start: Start, client: aiohttp.ClientSession) -> None:
    prefill = await start("prefill", "a")
    with process(flags("decode", "base", fault='{"kind": "die_at_token", "token": 4}')) as (running, at):
        await listening(client, at)
        body = legs(prefill, PROMPT, 10)
        leg = asyncio.create_task(post(client, prefill, body))
        got: list[bytes] = []
        with pytest.raises(aiohttp.ClientError):
            await read(client, f"{at}/generate", {**body, "stream": True}, got)
        assert running.wait(timeout=60) == 1
        said = [json.loads(e.removeprefix("data: "))["output_ids"] for e in b"".join(got).decode().split("\n\n") if e]
        assert [len(tokens) for tokens in said] == list(range(1, len(said) + 1))
        assert len(said) <= 3
        assert (await leg)[0] == 200


async def test_a_prefill_worker_dies_while_it_computes(
    start: Start, client: aiohttp.ClientSession, tmp_path: Any
) -> None:
    (tmp_path / "costs.yaml").write_text("prefill: 0.2")
    decode = await start("decode", "base", heartbeat_interval=1)
    argv = flags("prefill", "a", costs=tmp_path / "costs.yaml", fault='{"kind": "die_in_prefill"}')
    with process(argv) as (running, at):
        card = await listening(client, at)
        body = {**legs(decode, PROMPT, 3), "bootstrap_port": card["bootstrap_port"]}
        waiting = asyncio.create_task(post(client, decode, body))
        with pytest.raises(aiohttp.ClientError):
            await client.post(f"{at}/generate", json=body)
        assert running.wait(timeout=60) == 1
        status, reply = await waiting
        assert (status, "Lost connection with prefill instance" in reply["message"]) == (500, True)
    await wait_until(lambda: at_rest(decode))


async def test_a_told_death(client: aiohttp.ClientSession) -> None:
    with process(flags("decode", "base")) as (running, at):
        await listening(client, at)
        async with client.post(f"{at}/sun/fault", json={"kind": "die"}) as reply:
            assert reply.status == 200
        assert running.wait(timeout=60) == 1


async def test_sigterm_ends_a_worker_that_is_idle_cleanly(client: aiohttp.ClientSession) -> None:
    with process(flags("prefill", "a")) as (running, at):
        await listening(client, at)
        running.terminate()
        assert running.wait(timeout=60) == 0
