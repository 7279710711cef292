"""The guarantees for workers that die, clients that leave and wrong requests, on real SGLang servers.

Each test is named after its row in docs/faults.md. At the end of each, every task of the deployment answers exactly and
nothing is in flight.

Where the order of events matters, a test enforces it: a separate router that probes its workers once an hour still
counts a killed worker as ready, and a stopped scheduler process (SIGSTOP) keeps its requests in their present stage.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import running_router, sun_command
from sun_sglang.errors import EXIT_REFUSED
from sun_sglang.launch.state import ProcessState
from tests.engine.conftest import (
    ON_SPARE,
    TOPOLOGY,
    Deployment,
    Reference,
    events_of,
    frozen,
    gather,
    generate,
    scheduler_of,
    some_tokens,
    stopped,
)
from tests.engine.watch import SOON, in_flight, is_whole, loads, metric, tasks

NEVER = 3600.0
PATIENCE = 120.0
LONG = 1900


def greedy(length: int) -> dict[str, Any]:
    return {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}


@pytest.fixture(autouse=True)
async def every_task_is_well_afterwards(
    deployment: Deployment, client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> AsyncIterator[None]:
    yield
    await wait_until(lambda: is_whole(client, deployment), "every path of every task proven", within=PATIENCE)
    await answers_exactly(client, task_references)
    await wait_until(lambda: nothing_in_flight(client), "nothing in flight", within=SOON)
    for process in deployment.state.processes:
        if process.role != "router":
            await until_idle(client, deployment, process.name)


async def answers_exactly(
    client: httpx.AsyncClient, references: Mapping[str, Reference], but: Sequence[str] = ()
) -> None:
    """Send one question to each task, all at once, with a prompt that no cache holds."""
    prompt = [random.randrange(5, 261) for _ in range(24)]
    names = [name for name in references if name not in but]
    replies = await gather(*(generate(client, name, prompt, 8) for name in names))
    for name, reply in zip(names, replies, strict=True):
        references[name].check(prompt, reply["output_ids"])


async def until_idle(client: httpx.AsyncClient, deployment: Deployment, worker: str) -> None:
    """Wait until a worker has no request in its batch or in any queue.

    KV may be held for a while longer: until SGLang has detected that a dead prefill worker writes no more into it.
    """

    async def left() -> dict[str, int]:
        found = await loads(client, deployment.process(worker).url)
        return {name: count for name, count in found.items() if count and name != "num_used_tokens"}

    await wait_until(left, f"no request left on {worker}", within=SOON, accept=lambda value: value == {})


async def nothing_in_flight(client: httpx.AsyncClient) -> bool:
    return await in_flight(client) == 0


# --- workers and routers of a test's own ----------------------------------------------------------------------------


@asynccontextmanager
async def a_router(
    deployment: Deployment, directory: Path, pools: Mapping[str, Sequence[str]], *, ready: bool = True, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Run a second router, with one task `pair` over workers of the deployment; nothing is in flight in the end.

    Args:
        deployment: whose workers.
        directory: for the fleet file.
        pools: names of the workers that prefill and of those that decode.
        ready: wait until every path is proven.
        settings: of the router.
    """
    async with a_router_process(deployment, directory, pools, **settings) as (_, client):
        if ready:
            await wait_until(lambda: is_whole(client), "every path proven", within=PATIENCE)
        yield client
        await wait_until(lambda: nothing_in_flight(client), "nothing in flight", within=SOON)


@asynccontextmanager
async def a_router_process(
    deployment: Deployment,
    directory: Path,
    pools: Mapping[str, Sequence[str]],
    *,
    failover: bool = True,
    **settings: Any,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """Run a router as `a_router` does; yield its process too, which may end before."""
    fleet = {
        "tasks": {"pair": {"prefill": "prefill", "decode": "decode", "failover": failover}},
        "pools": {role: {"role": role, "model": "m"} for role in ("prefill", "decode")},
        "workers": [
            {"name": name, "pool": role, "url": deployment.process(name).url, "key": deployment.key}
            for role, names in pools.items()
            for name in names
        ],
        "router": {"port": 0} | settings,
    }
    file = directory / "fleet.json"
    file.write_text(json.dumps(fleet))
    async with (
        running_router(file) as router,
        httpx.AsyncClient(base_url=router.url, timeout=PATIENCE, headers=deployment.headers) as client,
    ):
        yield router.process, client


async def until_one_is_stuck(
    router: httpx.AsyncClient, worker: str, ask: Callable[[int], Coroutine[Any, Any, Any]]
) -> list[asyncio.Task[Any]]:
    """Send one request after the other until one is with this worker, which does nothing; return all of them."""
    asked: list[asyncio.Task[Any]] = []

    async def placed() -> bool:
        return asked[-1].done() or await on_worker(router, worker) > 0

    while not asked or not await on_worker(router, worker):
        assert len(asked) < 10, f"{worker} gets nothing"
        asked.append(asyncio.create_task(ask(len(asked))))
        await wait_until(placed, "it is answered, or stuck", within=PATIENCE)
    assert [task.done() for task in asked] == [True] * (len(asked) - 1) + [False]
    return asked


async def on_worker(router: httpx.AsyncClient, worker: str) -> float:
    return await metric(router, "sun_worker_in_flight", worker=worker)


Kill = Callable[..., Awaitable[None]]


@pytest.fixture
async def kill(
    every_task_is_well_afterwards: None, deployment: Deployment, client: httpx.AsyncClient
) -> AsyncIterator[Kill]:
    """Send SIGKILL, or another deadly signal, to a worker, whose other processes die with it, or to its scheduler
    alone.

    Afterwards a canary must pass between its pool and each other pool of its tasks: until then the router may still
    show the start that was killed.
    """
    canaries: dict[tuple[str, str], float] = {}

    async def now(name: str, number: int = signal.SIGKILL, *, scheduler: bool = False) -> None:
        for report in (await tasks(client)).values():
            if any(name in path.values() for path in report["paths"]):
                pools = (report["prefill"]["pool"], report["decode"]["pool"])
                canaries[pools] = await passed_canaries(client, *pools)
        os.kill(scheduler_of(deployment, name).pid if scheduler else deployment.process(name).pid, number)

    yield now
    for pools, before in canaries.items():
        await wait_until(
            lambda p=pools, b=before: has_canary(client, p, b),
            f"a new canary between {pools}",
            within=PATIENCE,
            # the page has hundreds of metrics, which a router that renders it all the time renders slowly
            interval=0.5,
        )


async def passed_canaries(client: httpx.AsyncClient, prefill: str, decode: str) -> float:
    return await metric(client, "sun_canaries_total", prefill_pool=prefill, decode_pool=decode, outcome="ok")


async def has_canary(client: httpx.AsyncClient, pools: tuple[str, str], before: float) -> bool:
    return await passed_canaries(client, *pools) > before


async def refuses(deployment: Deployment, name: str) -> bool:
    """Return whether a killed worker has released its port: a large process takes a while to end."""
    url = httpx.URL(deployment.process(name).url or "")
    try:
        _, writer = await asyncio.open_connection(url.host, url.port)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # the kernel took the connection, and the process ended before it did
    writer.close()
    return False


def nothing_restarts(deployment: Deployment) -> AbstractContextManager[None]:
    """Stop the supervisor for a while: what dies meanwhile stays dead."""
    return stopped(psutil.Process(deployment.state.pid))


# --- a worker is gone -----------------------------------------------------------------------------------------------


async def test_fault_01_prefill_refuses_the_connection(
    kill: Kill, deployment: Deployment, task_references: dict[str, Reference], tmp_path: Path
) -> None:
    pools = {"prefill": ["spare-a-0", "llama-a-0"], "decode": ["uncached-0"]}
    async with a_router(deployment, tmp_path, pools, probe_interval=NEVER, policy={"prefill": "round_robin"}) as router:
        await kill("spare-a-0")
        await wait_until(lambda: refuses(deployment, "spare-a-0"), "its port refuses", within=PATIENCE)
        for seed in range(2):  # one of the two goes to the dead worker first
            prompt = some_tokens(seed, 30)
            async with asyncio.timeout(SOON):
                reply = await generate(router, "pair", prompt, 8, stream=seed == 1)
            task_references["llama-a"].check(prompt, reply["output_ids"])
        assert await metric(router, "sun_retries_total", leg="prefill") == 1
        assert await metric(router, "sun_ejections_total", worker="spare-a-0") == 1
        await wait_until(
            lambda: metric(router, "sun_requests_total", outcome="ok"),
            "two counted",
            within=SOON,
            accept=lambda value: value == 2,
        )
        await until_idle(router, deployment, "uncached-0")


async def test_fault_02_prefill_dies_with_work_in_every_stage(
    kill: Kill, deployment: Deployment, task_references: dict[str, Reference], client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Half of these are its own, queued, in its batch or on their way: none of them goes to another worker."""
    pools = {"prefill": ["spare-a-0", "llama-a-0"], "decode": ["uncached-0"]}
    prompts = [some_tokens(100 + i, 700 + i) for i in range(24)]

    def ask(i: int) -> asyncio.Task[bool]:
        return asyncio.create_task(answered(router, task_references["llama-a"], prompts[i], 4, stream=i % 2 == 0))

    # no look at it while it is stopped: it would be taken out before it dies
    async with a_router(deployment, tmp_path, pools, probe_interval=NEVER, load_interval=0) as router:
        with frozen(deployment, "uncached-0"):  # no request ends before there is work on the prefill worker
            asked = [ask(i) for i in range(16)]
            await wait_until(
                lambda: is_busy(client, deployment, "spare-a-0"), "work on the prefill worker", within=PATIENCE
            )
        with frozen(deployment, "spare-a-0"):
            # wherever the first ones are by now, some of these are still to come when it dies
            asked += [ask(i) for i in range(16, 24)]

            async def left() -> bool:
                open_ones = sum(not task.done() for task in asked)
                return open_ones == await on_worker(router, "spare-a-0") > await on_worker(router, "llama-a-0") == 0

            await wait_until(left, "all that is left is with the worker that is stopped", within=PATIENCE)
            open_ones = [i for i, task in enumerate(asked) if not task.done()]
            await kill("spare-a-0")
            outcomes = await gather(*asked)
        assert [i for i, ok in enumerate(outcomes) if not ok] == open_ones
        assert await metric(router, "sun_retries_total") == 0
        ok = len(prompts) - len(open_ones)
        await wait_until(
            lambda: metric(router, "sun_requests_total", outcome="ok"),
            "all counted",
            within=SOON,
            accept=lambda value: value == ok,
        )
        task_references["llama-a"].require_few_ties()


async def answered(
    router: httpx.AsyncClient, reference: Reference, prompt: list[int], length: int, *, stream: bool
) -> bool:
    """Return whether a request was answered right; False where it was refused because its worker had died."""
    body = {"input_ids": prompt, "sampling_params": greedy(length), "stream": stream}
    reply = await router.post("/generate", json={"model": "pair"} | body)
    if reply.status_code == 502:
        assert reply.json()["error"]["code"] == "worker_died", reply.text
        return False
    assert reply.status_code == 200, reply.text
    last = reply.text.removesuffix("data: [DONE]\n\n").strip().split("\n\n")[-1].removeprefix("data: ")
    reference.check(prompt, json.loads(last)["output_ids"])
    return True


@pytest.mark.parametrize("victim", ["spare-a-0", "uncached-0"])
async def test_fault_02_07_a_scheduler_that_crashes_takes_its_request_to_no_other(
    kill: Kill, deployment: Deployment, task_references: dict[str, Reference], tmp_path: Path, victim: str
) -> None:
    """The HTTP server outlives it for up to a second, and the router must not count it as a worker that lives."""
    pools = {"prefill": ["spare-a-0", "llama-a-0"], "decode": ["uncached-0", "stock-0"]}
    settings = {"failover": False, "probe_interval": NEVER, "load_interval": 0}
    async with a_router(deployment, tmp_path, pools, **settings) as router:

        async def ask(i: int) -> bool:
            return await answered(router, task_references["llama-a"], some_tokens(130 + i, 40), 8, stream=i % 2 == 0)

        with frozen(deployment, victim):
            asked = await until_one_is_stuck(router, victim, ask)
            await kill(victim, scheduler=True)
            *others, last = await gather(*asked)
        assert (all(others), last) == (True, False)
        assert await metric(router, "sun_retries_total") == 0
        for i in range(2):
            assert await ask(20 + i)


async def is_busy(client: httpx.AsyncClient, deployment: Deployment, worker: str) -> bool:
    return any((await loads(client, deployment.process(worker).url)).values())


async def test_fault_02_prefill_dies_and_there_is_no_other(
    kill: Kill, deployment: Deployment, task_references: dict[str, Reference], client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Its scheduler is stopped first, so that the request is with it when it dies."""
    pools = {"prefill": ["spare-a-0"], "decode": ["uncached-0"]}
    async with a_router(deployment, tmp_path, pools, probe_interval=NEVER) as router:
        with frozen(deployment, "spare-a-0"):
            asked = asyncio.create_task(post(router, some_tokens(1, 50), 8))
            await wait_until(
                lambda: is_busy(client, deployment, "uncached-0"), "the decode worker waits for KV", within=PATIENCE
            )
            await kill("spare-a-0")
            async with asyncio.timeout(SOON):
                reply = await asked
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "worker_died")
        assert "prefill" in reply.json()["error"]["message"]
        await answers_exactly(client, task_references, but=ON_SPARE)
        await until_idle(client, deployment, "uncached-0")


async def post(router: httpx.AsyncClient, prompt: list[int], length: int, **fields: Any) -> httpx.Response:
    body = {"model": "pair", "input_ids": prompt, "sampling_params": greedy(length)}
    return await router.post("/generate", json=body | fields)


async def test_fault_03_prefill_answers_4xx(client: httpx.AsyncClient, deployment: Deployment) -> None:
    """SGLang itself refuses it; the router has no rule for it."""
    body = {"model": "llama-a", "text": "x", "sampling_params": {"min_new_tokens": 9, "max_new_tokens": 3}}
    retries = await metric(client, "sun_retries_total")
    for stream in (False, True):
        async with asyncio.timeout(SOON):
            reply = await client.post("/generate", json=body | {"stream": stream})
        assert reply.status_code == 400
        assert "min_new_tokens" in reply.text
    assert await metric(client, "sun_leg_requests_total", task="llama-a", outcome="refused") >= 1
    assert await metric(client, "sun_retries_total") == retries


async def test_fault_06_decode_refuses_the_connection(
    kill: Kill, deployment: Deployment, task_references: dict[str, Reference], tmp_path: Path
) -> None:
    pools = {"prefill": ["llama-a-0"], "decode": ["stock-0", "uncached-0"]}
    async with a_router(deployment, tmp_path, pools, probe_interval=NEVER, policy={"decode": "round_robin"}) as router:
        await kill("uncached-0")
        await wait_until(lambda: refuses(deployment, "uncached-0"), "its port refuses", within=PATIENCE)
        for seed in range(2):
            prompt = some_tokens(10 + seed, 30)
            async with asyncio.timeout(SOON):
                reply = await generate(router, "pair", prompt, 8, stream=seed == 1)
            task_references["llama-a"].check(prompt, reply["output_ids"])
        assert await metric(router, "sun_retries_total", leg="decode") == 1
        assert await metric(router, "sun_ejections_total", worker="uncached-0") == 1
        await until_idle(router, deployment, "llama-a-0")


@pytest.mark.parametrize("failover", [False, True])
@pytest.mark.parametrize(("victim", "stream"), [("stock-0", False), ("uncached-0", True)])
async def test_fault_07_decode_dies_before_the_first_byte(
    kill: Kill,
    deployment: Deployment,
    task_references: dict[str, Reference],
    client: httpx.AsyncClient,
    tmp_path: Path,
    victim: str,
    stream: bool,
    failover: bool,
) -> None:
    settings = {"failover": failover, "probe_interval": NEVER, "load_interval": 0}
    pools = {"prefill": ["llama-a-0"], "decode": ["uncached-0", "stock-0"]}
    async with a_router(deployment, tmp_path, pools, **settings) as router:

        async def ask(i: int) -> bool:
            return await answered(router, task_references["llama-a"], some_tokens(20 + i, 40), 8, stream=stream)

        with frozen(deployment, victim):
            asked = await until_one_is_stuck(router, victim, ask)
            await kill(victim)
            async with asyncio.timeout(SOON):
                *others, last = await gather(*asked)
        assert (all(others), last) == (True, failover), "without failover, what may have killed it goes to no other"
        assert await metric(router, "sun_retries_total") == 0
        assert await ask(9)
        await until_idle(client, deployment, "llama-a-0")


@pytest.mark.invariant("I6")
@pytest.mark.parametrize(
    ("task", "path", "body"),
    [
        ("stock", "/generate", {"text": "abc", "sampling_params": greedy(LONG)}),
        ("pages", "/v1/completions", {"prompt": "abc", "max_tokens": LONG, "ignore_eos": True}),
        (
            "uncached",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "abc"}], "max_tokens": LONG, "ignore_eos": True, "n": 2},
        ),
    ],
    ids=["generate", "completions", "two choices"],
)
async def test_fault_08_decode_dies_mid_stream(
    kill: Kill, deployment: Deployment, client: httpx.AsyncClient, task: str, path: str, body: dict[str, Any]
) -> None:
    """The client receives an error, and no event that marks a complete answer."""
    seen = []
    async with asyncio.timeout(SOON):
        async for event in events_of(client, path, {"model": task, "stream": True} | body):
            seen.append(event)
            if len(seen) == 6:
                await kill(TOPOLOGY["tasks"][task]["decode"] + "-0")
    assert "[DONE]" not in seen
    assert "broke off" in json.loads(seen[-1])["error"]["message"]
    assert not any('"error"' in event for event in seen[:-1])
    assert await metric(client, "sun_requests_total", task=task, outcome="failed") >= 1


async def test_fault_12_25_every_decode_worker_is_down_and_one_comes_back(
    kill: Kill, deployment: Deployment, client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    """503 with Retry-After until it is back, and back means that a canary went through it."""
    canaries = await passed_canaries(client, "pages-a", "pages-base")
    with nothing_restarts(deployment):
        await kill("pages-base-0")
        await wait_until(lambda: is_down(client, "pages"), "the router knows", within=SOON)
        async with asyncio.timeout(SOON):
            reply = await client.post("/generate", json={"model": "pages", "text": "abc", "stream": True})
        assert reply.status_code == 503
        assert int(reply.headers["Retry-After"]) >= 1
        health = await client.get("/health")
        assert health.status_code == 200
        assert health.json()["unserved_tasks"] == ["pages"]
        assert (await client.get("/readyz", params={"task": "pages"})).status_code == 503
        await answers_exactly(client, task_references, but=["pages"])

    async def first_answer() -> Any:
        reply = await client.post("/generate", json={"model": "pages", "text": "abc", "sampling_params": greedy(8)})
        assert reply.status_code in (200, 503), reply.text
        return reply.status_code == 200 and reply.json()

    answer = await wait_until(first_answer, "the task is served again", within=PATIENCE)
    assert answer["meta_info"]["completion_tokens"] == 8
    assert await passed_canaries(client, "pages-a", "pages-base") > canaries
    assert deployment.process("pages-base-0").restarts > 0


async def is_down(client: httpx.AsyncClient, task: str) -> bool:
    return not (await tasks(client))[task]["ready"]


async def test_fault_11_prefill_restarts_and_the_first_request_succeeds(
    kill: Kill, deployment: Deployment, client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    """On another bootstrap port: what the decode worker remembers of the old one is not used."""
    url = deployment.process("llama-b-0").url
    before = (await client.get(f"{url}/sun/worker")).json()
    with nothing_restarts(deployment):
        await kill("llama-b-0")
        await wait_until(lambda: is_down(client, "llama-b"), "the router knows", within=SOON)
        await answers_exactly(client, task_references, but=["llama-b"])
    await wait_until(lambda: is_whole(client, deployment), "every path proven", within=PATIENCE)
    prompt = some_tokens(30, 40)
    async with asyncio.timeout(SOON):
        reply = await generate(client, "llama-b", prompt, 8)
    task_references["llama-b"].check(prompt, reply["output_ids"])
    after = (await client.get(f"{url}/sun/worker")).json()
    assert after["bootstrap_port"] != before["bootstrap_port"]
    assert after["identity"] == before["identity"]


# --- what is meant to change, or to end ---------------------------------------------------------------------------


def hits(reply: Any, prompt: list[int]) -> bool:
    """Return whether the prompt came out of a cache; a first token or two may be another prompt's by chance."""
    cached = reply["meta_info"]["cached_tokens"]
    assert cached < 4 or cached >= len(prompt) - 1
    return bool(cached >= 4)


async def test_fault_24_a_tasks_model_changes_while_it_is_asked(
    deployment: Deployment, client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    """The new model answers from then on, and with no KV of the old one; what is in flight ends as it began."""
    old, new = task_references["llama-a"], task_references["llama-b"]
    prompt, other = some_tokens(80, 64), some_tokens(81, 40)
    for hit in (False, True):
        reply = await generate(client, "llama-a", prompt, 8)
        old.check(prompt, reply["output_ids"])
        assert hits(reply, prompt) == hit
    before = (await tasks(client))["llama-a"]["namespace"]
    body = {"model": "llama-a", "input_ids": other, "sampling_params": greedy(LONG), "stream": True}
    events = []
    try:
        async with aclosing(events_of(client, "/generate", body)) as stream:
            events.append(await anext(stream))
            await wait_until(lambda: move(client, "llama-a", "llama-b"), "the task has moved", within=PATIENCE)
            assert (await tasks(client))["llama-a"]["in_flight"] == 1, "it began before, and goes on"
            for hit in (False, True):
                reply = await generate(client, "llama-a", prompt, 8)
                new.check(prompt, reply["output_ids"])
                assert hits(reply, prompt) == hit
            assert tuple(reply["output_ids"]) != old.answer(prompt, 8), "or the two models cannot be told apart"
            assert (await tasks(client))["llama-a"]["namespace"] != before
            events += [event async for event in stream]
    finally:
        done = await sun(deployment, "task", "update", "llama-a", "--prefill", "llama-a")
    assert "llama-a: prefill llama-a" in done
    *_, last, end = events
    assert end == "[DONE]"
    answer = json.loads(last)
    assert answer["meta_info"]["finish_reason"]["type"] == "length"
    assert len(answer["output_ids"]) == LONG
    old.check(other, answer["output_ids"][:100])
    reply = await generate(client, "llama-a", prompt, 8)
    old.check(prompt, reply["output_ids"])


async def move(client: httpx.AsyncClient, task: str, prefill: str) -> bool:
    reply = await client.put(f"/tasks/{task}", json={"prefill": prefill})
    assert reply.status_code in (200, 202), reply.text
    return bool(reply.json()["moved"])


async def sun(deployment: Deployment, *arguments: str) -> str:
    """Run a `sun` command on the deployment, and return its output."""
    process = await asyncio.create_subprocess_exec(
        *sun_command(*arguments, "--run-dir", str(deployment.run_dir)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        printed, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return printed.decode()


async def test_fault_26_sigterm_to_the_router(
    deployment: Deployment, task_references: dict[str, Reference], tmp_path: Path
) -> None:
    """Requests in flight end as usual, new ones are refused, and then the router ends."""
    pools = {"prefill": ["llama-a-0"], "decode": ["uncached-0"]}
    prompts = [some_tokens(90 + i, 40) for i in range(4)]
    async with a_router_process(deployment, tmp_path, pools) as (process, router):
        await wait_until(lambda: is_whole(router), "every path proven", within=PATIENCE)
        with frozen(deployment, "uncached-0"):
            asked = [
                asyncio.create_task(generate(router, "pair", p, 60, stream=i % 2 == 0)) for i, p in enumerate(prompts)
            ]
            await wait_until(
                lambda: decoding(router), "all under way", within=PATIENCE, accept=lambda value: value == len(prompts)
            )
            process.send_signal(signal.SIGTERM)
            await wait_until(lambda: is_draining(router), "it drains", within=SOON)
            reply = await post(router, some_tokens(99, 10), 1)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
            assert process.returncode is None
        replies = await gather(*asked)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    for prompt, reply in zip(prompts, replies, strict=True):
        assert len(reply["output_ids"]) == 60
        task_references["llama-a"].check(prompt, reply["output_ids"])


async def decoding(router: httpx.AsyncClient) -> float:
    return await metric(router, "sun_leg_in_flight", leg="decode")


async def is_draining(router: httpx.AsyncClient) -> bool:
    return (await router.get("/health")).json()["status"] == "draining"


async def test_fault_26_sigterm_to_a_decode_worker(
    kill: Kill, deployment: Deployment, task_references: dict[str, Reference], tmp_path: Path
) -> None:
    """It finishes its requests and gets no new ones; the other worker gets all requests that arrive meanwhile."""
    victim = deployment.process("uncached-0")
    pools = {"prefill": ["llama-a-0"], "decode": ["uncached-0", "stock-0"]}
    reference = task_references["llama-a"]
    async with a_router(deployment, tmp_path, pools, probe_interval=0.1, load_interval=0) as router:

        async def ask(i: int, length: int = 60) -> None:
            prompt = some_tokens(100 + i, 40)
            reference.check(prompt, (await generate(router, "pair", prompt, length, stream=True))["output_ids"])

        with frozen(deployment, "uncached-0"):
            *_, last = await until_one_is_stuck(router, "uncached-0", ask)
            await kill("uncached-0", signal.SIGTERM)
            await wait_until(lambda: is_state(router, "uncached-0", "draining"), "it gets nothing new", within=SOON)
            for i in range(3):
                await ask(20 + i)
            assert not last.done()
        await last
        while psutil.pid_exists(victim.pid):
            await ask(30, 8)
        assert await metric(router, "sun_retries_total") == 0
        assert await metric(router, "sun_requests_total", outcome="ok") == await metric(router, "sun_requests_total")


async def is_state(router: httpx.AsyncClient, worker: str, state: str) -> bool:
    workers = (await router.get("/workers")).json()["workers"]
    return any(w["name"] == worker and w["state"] == state for w in workers)


async def test_fault_26_what_a_worker_cannot_end_in_time_is_an_explicit_error(
    kill: Kill, deployment: Deployment, client: httpx.AsyncClient
) -> None:
    """SIGTERM, and after a while SIGKILL, as the launcher and Kubernetes end a worker."""
    body = {"model": "stock", "input_ids": some_tokens(120, 40), "sampling_params": greedy(LONG), "stream": True}
    async with asyncio.timeout(PATIENCE), aclosing(events_of(client, "/generate", body)) as events:
        seen = [await anext(events) for _ in range(4)]
        with frozen(deployment, "stock-0"):
            await kill("stock-0", signal.SIGTERM)
            await wait_until(lambda: is_state(client, "stock-0", "draining"), "it drains", within=SOON)
            reply = await client.post("/generate", json={"model": "stock", "text": "abc"})
            assert reply.status_code == 503
            assert int(reply.headers["Retry-After"]) >= 1
            await kill("stock-0")
            seen += [event async for event in events]
    assert "[DONE]" not in seen
    assert "broke off" in json.loads(seen[-1])["error"]["message"]


# --- a client is gone -----------------------------------------------------------------------------------------------


@pytest.mark.invariant("I3")
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_13_the_client_leaves_before_the_first_token(
    deployment: Deployment, client: httpx.AsyncClient, stream: bool
) -> None:
    body = {"model": "spare", "input_ids": some_tokens(40, 60), "sampling_params": greedy(LONG), "stream": stream}
    with frozen(deployment, "spare-a-0"):
        asked = asyncio.create_task(client.post("/generate", json=body))
        await wait_until(
            lambda: is_busy(client, deployment, "uncached-0"), "the decode worker waits for KV", within=PATIENCE
        )
        asked.cancel()
        await wait_until(lambda: nothing_in_flight(client), "the router let go", within=SOON)
        await until_idle(client, deployment, "uncached-0")
    # only now does the prefill worker receive the abort
    await until_idle(client, deployment, "spare-a-0")


@pytest.mark.invariant("I3")
@pytest.mark.parametrize("n", [1, 3])
async def test_fault_14_the_client_leaves_mid_stream(
    deployment: Deployment, client: httpx.AsyncClient, task_references: dict[str, Reference], n: int
) -> None:
    body = {"model": "llama-a", "text": "abc", "sampling_params": greedy(LONG) | {"n": n}, "stream": True}
    async with asyncio.timeout(SOON), aclosing(events_of(client, "/generate", body)) as events:
        for _ in range(4 * n):
            await anext(events)
        await wait_until(
            lambda: running(client, deployment, "llama-base-0"),
            f"{n} in the batch",
            within=SOON,
            accept=lambda value: value == n,
        )
        # the other task of this worker goes on meanwhile, in the same batch
        await answers_exactly(client, {"llama-b": task_references["llama-b"]})
        assert await metric(client, "sun_in_flight", task="llama-a") == 1, "it would have run for long"
    await until_idle(client, deployment, "llama-base-0")
    await wait_until(
        lambda: held_by(client, deployment, "llama-base-0"),
        "its KV freed",
        within=SOON,
        accept=lambda value: value == 0,
    )
    assert await metric(client, "sun_requests_total", task="llama-a", outcome="disconnected") >= 1


async def held_by(client: httpx.AsyncClient, deployment: Deployment, worker: str) -> int:
    return (await loads(client, deployment.process(worker).url))["num_used_tokens"]


async def running(client: httpx.AsyncClient, deployment: Deployment, worker: str) -> int:
    return (await loads(client, deployment.process(worker).url))["num_running_reqs"]


# --- requests that are wrong, or only look so -----------------------------------------------------------------------


async def test_fault_17_an_abort_means_one_request(
    client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    """SGLang takes an id for a prefix."""
    prompt = some_tokens(50, 20)

    async def last_of(rid: str, length: int) -> Any:
        body = {"model": "llama-a", "input_ids": prompt, "sampling_params": greedy(length), "rid": rid, "stream": True}
        *_, last, end = [event async for event in events_of(client, "/generate", body)]
        assert end == "[DONE]"
        return json.loads(last)

    asked = [asyncio.create_task(last_of("a", LONG)), asyncio.create_task(last_of("ab", 200))]
    await wait_until(lambda: has_in_flight(client, "llama-a", 2), "both in flight", within=SOON)
    assert (await client.post("/abort_request", json={"rid": "a"})).status_code == 200
    short, whole = await gather(*asked)
    assert short["meta_info"]["finish_reason"]["type"] == "abort"
    assert short["meta_info"]["completion_tokens"] < LONG
    assert whole["meta_info"]["finish_reason"]["type"] == "length"
    task_references["llama-a"].check(prompt, whole["output_ids"])


async def has_in_flight(client: httpx.AsyncClient, task: str, count: int) -> bool:
    return bool((await tasks(client))[task]["in_flight"] == count)


async def test_fault_18_n_and_lists_are_requests_of_their_own(
    client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    """In SGLang's PD mode n > 1 shares one room and hangs."""
    prompts = [some_tokens(60 + i, 20) for i in range(3)]
    before = await metric(client, "sun_leg_requests_total", task="llama-b", leg="decode", outcome="ok")
    body = {"model": "llama-b", "input_ids": prompts, "sampling_params": greedy(10) | {"n": 4}}
    async with asyncio.timeout(SOON):
        replies = (await client.post("/generate", json=body)).json()
    assert len(replies) == 12
    for i, reply in enumerate(replies):
        task_references["llama-b"].check(prompts[i // 4], reply["output_ids"])
    after = await metric(client, "sun_leg_requests_total", task="llama-b", leg="decode", outcome="ok")
    assert after - before == 12


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"input_ids": [7] * 2042}),
        ("/generate", {"input_ids": [[7], [7] * 2042]}),
        ("/generate", {"text": "x" * 2042}),
        ("/v1/completions", {"prompt": "x" * 2042}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 2042}]}),
    ],
)
async def test_fault_19_a_prompt_too_long(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    before = await metric(client, "sun_leg_requests_total")
    async with asyncio.timeout(SOON):
        reply = await client.post(path, json={"model": "llama-a"} | body)
    assert reply.status_code == 400
    assert "takes at most 2041" in reply.json()["error"]["message"]
    assert await metric(client, "sun_leg_requests_total") == before, "no worker saw it"


async def test_fault_19_the_longest_prompt_is_answered(
    client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    for body in ({"input_ids": [7] * 2041}, {"text": "x" * 2041}):
        reply = await client.post("/generate", json={"model": "llama-a", "sampling_params": greedy(4)} | body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["meta_info"]["prompt_tokens"] == 2041


FAR_TOO_LONG = "abcd " * 700_000
NO_SUCH_TOKEN = [2147483647]
HELLO = [{"role": "user", "content": "hello"}]
ENDED_WORKERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "completions, 3.5 MB": ("/v1/completions", {"prompt": FAR_TOO_LONG, "max_tokens": 2}, "tokens; task"),
    "generate, 3.5 MB": ("/generate", {"text": FAR_TOO_LONG, "sampling_params": {"max_new_tokens": 2}}, "tokens; task"),
    "chat, 3.5 MB": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": FAR_TOO_LONG}], "max_tokens": 2},
        "tokens; task",
    ),
    "completions, a token that there is none": (
        "/v1/completions",
        {"prompt": "hello", "min_tokens": 1, "stop_token_ids": NO_SUCH_TOKEN},
        "`stop_token_ids` holds 2147483647",
    ),
    "generate, a token that there is none": (
        "/generate",
        {"text": "hello", "sampling_params": {"min_new_tokens": 1, "stop_token_ids": NO_SUCH_TOKEN}},
        "`sampling_params.stop_token_ids` holds 2147483647",
    ),
    "chat, a token that there is none": (
        "/v1/chat/completions",
        {"messages": HELLO, "min_tokens": 1, "stop_token_ids": NO_SUCH_TOKEN},
        "`stop_token_ids` holds 2147483647",
    ),
    "chat, a bias for a token that there is none": (
        "/v1/chat/completions",
        {"messages": HELLO, "logit_bias": {"261": 1.0}},
        "`logit_bias` holds 261",
    ),
    "generate, the logprob of a token that there is none": (
        "/generate",
        {"text": "hello", "return_logprob": True, "token_ids_logprob": [261]},
        "`token_ids_logprob` holds 261",
    ),
    "completions, a grammar that ends before the least tokens": (
        "/v1/completions",
        {"prompt": "hello", "json_schema": '{"enum": ["a"]}', "min_tokens": 24, "top_p": 0.9, "max_tokens": 32},
        "`min_tokens` cannot be combined with `json_schema`",
    ),
    "generate, no token that is no stop": (
        "/generate",
        {
            "text": "hello",
            "sampling_params": {"stop_token_ids": [*range(261)], "min_new_tokens": 4, "top_p": 0.9},
        },
        "over half of the vocabulary",
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", ENDED_WORKERS)
async def test_fault_19_a_body_that_ended_workers_is_refused_and_every_process_lives(
    client: httpx.AsyncClient, deployment: Deployment, what: str, stream: bool
) -> None:
    path, body, why = ENDED_WORKERS[what]
    before = [processes_of(process) for process in deployment.state.processes]
    sent = await metric(client, "sun_leg_requests_total")
    reply = await client.post(path, json={"model": "llama-a", "stream": stream} | body)
    assert reply.status_code == 400
    assert why in reply.json()["error"]["message"]
    assert await metric(client, "sun_leg_requests_total") == sent, "no worker saw it"
    assert [processes_of(process) for process in deployment.state.processes] == before


def processes_of(process: ProcessState) -> tuple[str, list[int]]:
    """Return a worker's processes, its scheduler among them."""
    found = psutil.Process(process.pid)
    return process.name, [process.pid, *sorted(child.pid for child in found.children(recursive=True))]


COUNTED: dict[str, dict[str, Any]] = {
    "text": {"prompt": "hello, wörld <user>"},
    "a text of several windows": {"prompt": "hello " * 30_000},
    "chat": {"messages": HELLO},
    "the chat's last answer goes on": {
        "messages": [*HELLO, {"role": "assistant", "content": "hi"}],
        "continue_final_message": True,
    },
    "tools": {
        "messages": HELLO,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
}


@pytest.mark.parametrize("what", COUNTED)
async def test_a_worker_counts_the_tokens_that_its_tokenize_returns(
    client: httpx.AsyncClient, deployment: Deployment, what: str
) -> None:
    url = deployment.process("llama-a-0").url
    theirs = (await client.post(f"{url}/tokenize", json=COUNTED[what])).json()["count"]
    for most in (theirs, theirs - 1):
        ours = await client.post(f"{url}/sun/tokens", params={"most": most}, json=COUNTED[what])
        assert ours.json() == {"tokens": theirs, "exact": True}
    few = (await client.post(f"{url}/sun/tokens", params={"most": 3}, json=COUNTED[what])).json()
    assert few["tokens"] > 3


async def test_a_worker_refuses_to_count_what_its_tokenize_refuses(
    client: httpx.AsyncClient, deployment: Deployment
) -> None:
    url = deployment.process("llama-a-0").url
    for body in ({}, {"messages": [{"role": "nobody", "content": "x"}]}, {"prompt": 5}):
        assert (await client.post(f"{url}/sun/tokens", params={"most": 5}, json=body)).status_code == 400
    assert (await client.post(f"{url}/sun/tokens", json={"prompt": "x"})).status_code == 400
    card = (await client.get(f"{url}/sun/worker")).json()
    assert card["token_bytes"] == len("<assistant>")


WRONG: dict[str, tuple[str, Any]] = {
    "top_logprobs": ("/generate", {"text": "x", "return_logprob": True, "top_logprobs_num": 129}),
    "top_logprobs in a list": ("/generate", {"text": ["x"], "return_logprob": True, "top_logprobs_num": [129]}),
    "logprobs": ("/v1/completions", {"prompt": "x", "logprobs": 129}),
    "chat top_logprobs": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 129},
    ),
    "schema that is no JSON": ("/generate", {"text": "x", "sampling_params": {"json_schema": "{"}}),
    "schema with an unknown type": ("/generate", {"text": "x", "sampling_params": {"json_schema": '{"type": "no"}'}}),
    "regex": ("/generate", {"text": "x", "sampling_params": {"regex": "("}}),
    "response_format": (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "x"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}},
        },
    ),
    "a token that there is none": ("/generate", {"input_ids": [261]}),
    "a negative token": ("/generate", {"input_ids": [-1]}),
    "a wrong type": ("/generate", {"text": "x", "sampling_params": {"max_new_tokens": "many"}}),
    "an unknown parameter": ("/generate", {"text": "x", "sampling_params": {"nonsense": 1}}),
    "no prompt": ("/generate", {"sampling_params": {}}),
    "an empty prompt": ("/v1/completions", {"prompt": ""}),
}


@pytest.mark.parametrize("stream", [False, True])
async def test_fault_20_wrong_requests_are_refused_and_nobody_dies(
    client: httpx.AsyncClient, deployment: Deployment, stream: bool
) -> None:
    before = {p.name: (p.pid, p.restarts) for p in deployment.state.processes}
    for what, (path, body) in WRONG.items():
        async with asyncio.timeout(SOON):
            reply = await client.post(path, json={"model": "llama-a", "stream": stream} | body)
        assert reply.status_code == 400, f"{what}: {reply.status_code} {reply.text[:300]}"
    for content in (b"{", b"[]", b"\xff", b"null", b""):
        reply = await client.post("/generate", content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, content
    big = await client.post("/generate", json={"model": "llama-a", "text": "x" * (5 << 20), "stream": stream})
    assert big.status_code == 413
    assert {p.name: (p.pid, p.restarts) for p in deployment.state.processes} == before


# --- workers that may not serve -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pools", "why"),
    [
        (
            {"prefill": ["llama-a-0"], "decode": ["pages-base-0"]},
            r"page_size differs from `[a-z0-9-]+`'s \(.*(1, .*: 16|16, .*: 1)\)",
        ),
        ({"prefill": ["llama-a-0"], "decode": ["qwen3-base-0"]}, "architecture differs .*LlamaForCausalLM"),
        ({"prefill": ["llama-a-0", "llama-b-0"], "decode": ["uncached-0"]}, "weights differs from `llama-[ab]-0`"),
        (
            {"prefill": ["llama-a-0"], "decode": ["llama-b-0"]},
            "it is a prefill worker, and pool `decode` is a decode pool",
        ),
    ],
    ids=["page size", "architecture", "weights in one pool", "role"],
)
async def test_fault_21_a_member_that_differs_is_refused(
    deployment: Deployment,
    task_references: dict[str, Reference],
    tmp_path: Path,
    pools: dict[str, list[str]],
    why: str,
) -> None:
    """A fleet pairs two workers that differ: one of the two is refused, with both values."""
    async with a_router(deployment, tmp_path, pools, ready=False, probe_interval=0.1) as router:

        async def refused() -> list[Any]:
            task = (await tasks(router))["pair"]
            workers = task["prefill"]["workers"] + task["decode"]["workers"]
            return [w for w in workers if w["state"] == "refused"]

        (worker,) = await wait_until(refused, "one is refused", within=PATIENCE)
        assert re.search(why, worker["reason"]), worker["reason"]
        if len(pools["prefill"]) == 1:
            reply = await post(router, some_tokens(70, 10), 4)
            assert reply.status_code == 503
            return
        await wait_until(lambda: is_served(router), "the other serves", within=PATIENCE)
        prompt = some_tokens(71, 10)
        served = "llama-b" if worker["name"] == "llama-a-0" else "llama-a"
        for _ in range(3):
            task_references[served].check(prompt, (await generate(router, "pair", prompt, 8))["output_ids"])


async def is_served(router: httpx.AsyncClient) -> bool:
    return not await is_down(router, "pair")


async def test_fault_25_no_decode_worker_has_ever_been_there(deployment: Deployment, tmp_path: Path) -> None:
    async with a_router(deployment, tmp_path, {"prefill": ["llama-a-0"], "decode": []}, ready=False) as router:
        for stream in (False, True):
            async with asyncio.timeout(SOON):
                reply = await post(router, some_tokens(72, 10), 4, stream=stream)
            assert reply.status_code == 503
            assert int(reply.headers["Retry-After"]) >= 1
            assert reply.json()["error"]["code"] == "no_worker"


@pytest.mark.invariant("I12")
async def test_fault_28_a_worker_without_the_hooks_never_gets_ready(models: Path) -> None:
    """SGLang's own variable excludes the plugin: the worker ends and names the variable."""
    flags = ["--model-path", str(models / "llama-base"), "--disaggregation-mode", "decode"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sun_sglang.worker.server",
        *flags,
        env=os.environ | {"SGLANG_PLUGINS": "none"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    assert process.returncode == EXIT_REFUSED
    assert b"sun worker: SGLANG_PLUGINS=none makes SGLang skip" in output, output[-2000:]


@pytest.mark.invariant("I2")
async def test_no_kv_is_held_after_all_of_this(client: httpx.AsyncClient, deployment: Deployment) -> None:
    """The one bound here that is SGLang's: its decode workers give a dead prefill worker up after some heartbeats."""

    async def held() -> dict[str, int]:
        workers = [p for p in deployment.state.processes if p.role != "router"]
        used = {p.name: (await loads(client, p.url))["num_used_tokens"] for p in workers}
        return {name: tokens for name, tokens in used.items() if tokens}

    await wait_until(held, "no KV held by a request", within=PATIENCE, accept=lambda value: value == {})
