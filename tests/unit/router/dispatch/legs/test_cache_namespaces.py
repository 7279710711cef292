"""The KV that a request may reuse from a decode worker's cache."""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.worker_card import WorkerCard
from tests.unit.router.conftest import Start, System
from tests.unit.router.fake_worker import FakeWorker, Rooms

ASK = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 3}}
ONE = ("math", "base")


def keys(system: System, worker: str) -> list[str]:
    """Return the namespaces of the requests that a worker got, without canaries."""
    found = [body["extra_key"] for path, body in system[worker].requests if path == "/generate"]
    return [key for key in found if "sun-canary" not in key]


async def ask_twice(system: System, task: str) -> tuple[list[str], list[str]]:
    """Send a task two requests; return the namespaces on the prefill side and on the decode side."""
    for _ in range(2):
        status, reply = await system.post("/generate", {**ASK, "model": task})
        assert status == 200, reply
    return keys(system, "math-0")[-2:], keys(system, "base-0")[-2:]


@pytest.mark.invariant("I7")
@pytest.mark.parametrize(
    ("decode", "shared"),
    [
        ({"keeps_answers": False}, True),
        ({"keeps_answers": True}, False),
        ({"keeps_answers": True, "identity": {"weights": "w-math"}}, True),
        ({"keeps_answers": True, "identity": {"weights": "w-math"}, "module_flags": '{"quantization": "fp8"}'}, False),
        ({"keeps_answers": False, "module_flags": '{"quantization": "fp8"}'}, True),
    ],
)
async def test_requests_share_a_decode_cache_only_where_it_keeps_no_kv_of_another_module(
    start: Start, decode: dict[str, Any], shared: bool
) -> None:
    system: System = await start({"math": ONE}, {"math": 1, "base": 1}, cards={"base-0": decode})
    on_prefill, on_decode = await ask_twice(system, "math")
    assert on_prefill == ["math@w-math"] * 2, "a prefill cache holds only what the prefill module made"
    assert len(set(on_decode)) == (1 if shared else 2)
    assert all(key.startswith("math@w-math") for key in on_decode)


def test_a_card_that_does_not_say_what_its_cache_keeps_counts_as_keeping_answers() -> None:
    told = FakeWorker("decode", "w", Rooms()).card
    del told["keeps_answers"]
    assert WorkerCard.model_validate(told).keeps_answers


@pytest.mark.invariant("I8")
async def test_a_task_moved_to_a_decoder_that_keeps_answers_reuses_none_of_them(start: Start) -> None:
    """The launcher chose the stock cache for `own`, whose two sides are one module; `math` comes later."""
    cards = {"base-0": {"keeps_answers": True, "identity": {"weights": "w-own"}}}
    pools = {"own": 1, "math": 1, "base": 1, "other": 1}
    system: System = await start({"own": ("own", "base"), "math": ("math", "other")}, pools, cards=cards)
    async with system.client.put("/tasks/math", json={"decode": "base"}) as reply:
        assert reply.status in (200, 202), await reply.text()
    await wait_until(lambda: system.router.registry.fleet.tasks["math"].decode == "base")
    _, on_decode = await ask_twice(system, "math")
    assert len(set(on_decode)) == 2
    for _ in range(2):
        assert (await system.post("/generate", {**ASK, "model": "own"}))[0] == 200
    assert keys(system, "base-0")[-2:] == ["own@w-own"] * 2


async def test_two_tasks_over_one_prefill_pool_share_its_cache_and_those_of_their_decoders(start: Start) -> None:
    tasks = {"math": ONE, "twin": ONE, "apart": ("math", "other")}
    system: System = await start(tasks, {"math": 1, "base": 1, "other": 1})
    for task in tasks:
        assert (await system.post("/generate", {**ASK, "model": task}))[0] == 200
    assert keys(system, "math-0") == ["math@w-math"] * 3
    assert keys(system, "base-0") == ["math@w-math"] * 2
    assert keys(system, "other-0") == ["math@w-math"]


async def test_members_of_a_pool_need_the_same_module_flags(start: Start) -> None:
    cards = {"math-1": {"module_flags": '{"quantization": "fp8"}'}}
    system: System = await start({"math": ONE}, {"math": 2, "base": 1}, cards=cards, wait=False)
    await wait_until(lambda: any("module_flags" in w.reason for w in system.router.registry.workers.values()))
    await system.ready()
    assert len(system.router.registry.usable("math")) == 1
