"""Decode workers that are killed, frozen, emptied and restarted under streams: every answer equals an unbroken one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from sun_sglang.bench.failover.streams import Stream, have_brought, make_streams
from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import sun_command
from tests.engine.conftest import ADAPTERS, BUSY, Deployment, Reference, gather, running, some_tokens
from tests.engine.precision import PRECISION
from tests.engine.watch import SOON, is_whole, metric

LENGTH = 150
DECODERS = ("base-0", "base-1")
TASKS = ("a", "adapter", "last")
TOPOLOGY: dict[str, Any] = {
    "pools": {
        "base": {"role": "decode", "model": "./llama-base", "replicas": 2},
        "a": {"role": "prefill", "model": "./llama-a", "engine": ADAPTERS},
        "last": {"role": "prefill", "model": "./llama-last-b"},
    },
    "tasks": {
        "a": {"prefill": "a", "decode": "base"},
        "adapter": {"prefill": "a", "decode": "base", "adapter": "./adapter-part"},
        "last": {"prefill": "last", "decode": "base"},
        "plain": {"prefill": "a", "decode": "base", "failover": False},
    },
    "engine": {"dtype": PRECISION.dtype, "max_total_tokens": 16384, "tool_call_parser": "llama3"},
    "router": {"port": 0, "first_token_timeout": BUSY},
}


@pytest.fixture(scope="module")
def failing(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(TOPOLOGY, models / "failover.yaml", tmp_path_factory.mktemp("run")) as launched:
        yield launched


@pytest.fixture
async def asked(failing: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=failing.url, timeout=BUSY, headers=failing.headers) as client:
        await wait_until(lambda: is_whole(client, failing), "every worker serves", within=BUSY)
        yield client


@pytest.fixture
async def reader(failing: Deployment, asked: httpx.AsyncClient) -> AsyncIterator[aiohttp.ClientSession]:
    timeout, connector = aiohttp.ClientTimeout(total=BUSY), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(failing.url, timeout=timeout, connector=connector) as session:
        yield session


async def unbroken(reader: aiohttp.ClientSession, made: Sequence[Stream]) -> list[Stream]:
    return await gather(*(stream.again().run(reader) for stream in made))


async def in_flight(client: httpx.AsyncClient, worker: str) -> int:
    """Return how many answers a decode worker has to finish."""
    workers = (await client.get("/tasks")).json()["tasks"]["a"]["decode"]["workers"]
    return int(next(found["in_flight"] for found in workers if found["name"] == worker))


async def broken_by(
    asked: httpx.AsyncClient,
    reader: aiohttp.ClientSession,
    made: Sequence[Stream],
    failing: Deployment,
    victim: str,
    happen: Callable[[], Any],
    after: int = 2,
) -> list[Stream]:
    """Run streams, stop a worker while it has some that have begun, let something happen, and return them at their end.

    On a busy machine one worker may finish its streams before the other begins its own; all are then run again.

    Args:
        asked: the router.
        reader: reads the streams.
        made: the streams.
        failing: the deployment.
        victim: name of the worker.
        happen: is called while the worker is stopped.
        after: how many events; see `have_brought`.
    """
    (other,) = {*DECODERS} - {victim}

    def has_begun() -> bool:
        return have_brought(running, after) and all(stream.events for stream in running)

    while True:
        running = [stream.again() for stream in made]
        tasks = [asyncio.create_task(stream.run(reader)) for stream in running]
        await wait_until(has_begun, "streams run", within=BUSY, interval=0.01)
        signal_all(failing, victim, signal.SIGSTOP)
        # once the router has answered, it has read and passed on what the worker sent before
        await in_flight(asked, victim)
        # a stream has one answer or more in flight, so these are too many for the other worker alone
        if await in_flight(asked, other) < sum(not stream.complete for stream in running):
            break
        signal_all(failing, victim, signal.SIGCONT)
        await gather(*tasks)
    happened = happen()
    if asyncio.iscoroutine(happened):
        await happened
    await gather(*tasks)
    return running


def require_same(found: Sequence[Stream], right: Sequence[Stream]) -> None:
    errors = [stream.error for stream in found if stream.error]
    assert not errors, errors
    differ = [(f, r) for f, r in zip(found, right, strict=True) if not f.same_as(r)]
    # a batch may decide a tie of two logits differently
    assert len(differ) <= 1, differ


def signal_all(deployment: Deployment, name: str, number: int) -> None:
    """Send a signal to all processes of a worker."""
    os.killpg(os.getpgid(deployment.process(name).pid), number)


async def replays(client: httpx.AsyncClient) -> float:
    return await metric(client, "sun_replays_total")


@pytest.mark.parametrize(("victim", "after"), [("base-0", 2), ("base-1", 120)])
async def test_killed_decode_worker_is_not_noticed_by_readers_of_streams(
    asked: httpx.AsyncClient, reader: aiohttp.ClientSession, failing: Deployment, victim: str, after: int
) -> None:
    made = make_streams(TASKS, DECODERS.index(victim), 16, LENGTH)
    right, before = await unbroken(reader, made), await replays(asked)
    kill = partial(signal_all, failing, victim, signal.SIGKILL)
    found = await broken_by(asked, reader, made, failing, victim, kill, after)
    require_same(found, right)
    assert await replays(asked) > before, "streams ran on the killed worker"


async def test_greedy_streams_over_a_kill_equal_the_reference(
    asked: httpx.AsyncClient, reader: aiohttp.ClientSession, failing: Deployment, models: Path
) -> None:
    sampling = {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True}
    prompts = [some_tokens(8100 + number, 5 + number) for number in range(16)]
    made = [
        Stream("/generate", {"model": task, "input_ids": prompt, "stream": True, "sampling_params": sampling})
        for task, prompt in zip(("a", "last") * 8, prompts, strict=True)
    ]
    references = {
        "a": Reference(models / "llama-a", models / "llama-base"),
        "last": Reference(models / "llama-last-b", models / "llama-base", "decode"),
    }
    kill = partial(signal_all, failing, "base-0", signal.SIGKILL)
    for stream in await broken_by(asked, reader, made, failing, "base-0", kill):
        assert stream.error is None
        references[stream.body["model"]].check(stream.body["input_ids"], stream.answers[0].ids)
    for reference in references.values():
        reference.require_few_ties()


async def test_frozen_decode_worker_is_not_noticed_by_readers_of_streams(
    asked: httpx.AsyncClient, reader: aiohttp.ClientSession, failing: Deployment
) -> None:
    made = make_streams(TASKS, 3, 16, LENGTH)
    right, before = await unbroken(reader, made), await replays(asked)
    try:
        found = await broken_by(asked, reader, made, failing, "base-0", lambda: None)
    finally:
        signal_all(failing, "base-0", signal.SIGCONT)
    require_same(found, right)
    assert await replays(asked) > before


async def test_task_without_failover_gets_one_clear_error(
    asked: httpx.AsyncClient, reader: aiohttp.ClientSession, failing: Deployment
) -> None:
    made, before = make_streams(["plain"], 4, 12, LENGTH), await replays(asked)
    kill = partial(signal_all, failing, "base-1", signal.SIGKILL)
    found = await broken_by(asked, reader, made, failing, "base-1", kill)
    codes = Counter(stream.error["code"] if stream.error else "ok" for stream in found)
    # an answer of a list may not have begun, and is not sent to another worker, which it might stop too
    assert {"stream_broken"} <= codes.keys() <= {"ok", "stream_broken", "worker_died"}
    assert await replays(asked) == before


async def test_drain_with_move_empties_a_worker_and_breaks_nothing(
    asked: httpx.AsyncClient, reader: aiohttp.ClientSession, failing: Deployment
) -> None:
    made = make_streams(TASKS, 5, 16, LENGTH)
    right, before = await unbroken(reader, made), await replays(asked)

    async def drain() -> None:
        reply = await asked.post("/workers/base-0/drain", json={"move": True})
        assert reply.status_code == 200, reply.text
        signal_all(failing, "base-0", signal.SIGCONT)
        await wait_until(partial(in_flight, asked, "base-0"), "it is empty", within=SOON, accept=lambda left: left == 0)

    found = await broken_by(asked, reader, made, failing, "base-0", drain)
    assert (await asked.post("/workers/base-0/resume")).status_code == 200
    require_same(found, right)
    assert await replays(asked) > before


async def test_rolling_restart_of_a_pool_under_streams_breaks_none(
    reader: aiohttp.ClientSession, failing: Deployment
) -> None:
    made, done = make_streams(TASKS, 6, 8, LENGTH), asyncio.Event()
    right = await unbroken(reader, made)
    pids = {name: failing.process(name).pid for name in DECODERS}

    async def keep_asking() -> int:
        rounds = 0
        while not done.is_set():
            require_same(await unbroken(reader, made), right)
            rounds += 1
        return rounds

    load = asyncio.create_task(keep_asking())
    try:
        command = sun_command("workers", "restart", "base", "--run-dir", str(failing.run_dir), "--json")
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), BUSY)
    finally:
        done.set()
    assert await load > 0
    assert process.returncode == 0, output
    assert all(failing.process(name).pid != pids[name] for name in DECODERS)
