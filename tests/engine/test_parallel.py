"""Workers of several ranks: every scheduler proves its hooks, and every rank answers as the reference."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sun_sglang.contracts.first_token import mark_decode_first
from sun_sglang.contracts.module import MODULES_PATH
from tests.engine.conftest import BUSY, Deployment, Reference, gather, generate, running, some_tokens
from tests.engine.precision import PRECISION

TOPOLOGY: dict[str, Any] = {
    "pools": {
        f"{kind}-{role}": {"role": role, "model": f"./llama-{model}", "engine": {f"{kind}_size": 2}}
        for kind in ("dp", "tp")
        for role, model in (("prefill", "a"), ("decode", "base"))
    }
    | {
        "one-prefill": {"role": "prefill", "model": "./llama-a"},
        "one-decode": {"role": "decode", "model": "./llama-base"},
    },
    "tasks": {
        "dp": {"prefill": "dp-prefill", "decode": "dp-decode"},
        "tp": {"prefill": "tp-prefill", "decode": "tp-decode"},
        # KV heads of one rank go to two, and those of two ranks to one
        "split": {"prefill": "one-prefill", "decode": "tp-decode"},
        "join": {"prefill": "tp-prefill", "decode": "one-decode"},
        # both ranks change to it and back
        "turn": {"prefill": "tp-prefill", "decode": "tp-decode", "model": "./llama-b"},
    },
    "engine": {"dtype": PRECISION.dtype, "max_total_tokens": 4096},
    "router": {"port": 0, "first_token_timeout": BUSY},
}
ANSWER_TOKENS = 16


@pytest.fixture(scope="module")
def ranks(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Launch pairs of workers: with two data-parallel ranks, with two tensor-parallel ranks, and with one rank."""
    with running(TOPOLOGY, models / "ranks.yaml", tmp_path_factory.mktemp("ranks")) as launched:
        yield launched


@pytest.fixture
async def asked(ranks: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=ranks.url, timeout=BUSY, headers=ranks.headers) as client:
        yield client


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("task", TOPOLOGY["tasks"])
async def test_workers_of_two_ranks_answer_as_the_reference(
    ranks: Deployment, asked: httpx.AsyncClient, models: Path, task: str
) -> None:
    reference = Reference(models / ("llama-b" if task == "turn" else "llama-a"), models / "llama-base")
    prompts = [some_tokens(seed, 20) for seed in range(16)]
    replies = await gather(*(generate(asked, task, prompt, ANSWER_TOKENS) for prompt in prompts))
    for prompt, reply in zip(prompts, replies, strict=True):
        reference.check(prompt, reply["output_ids"])
    reference.require_few_ties()
    if task == "dp":
        assert {reply["meta_info"]["dp_rank"] for reply in replies} == {0, 1}, "both ranks decode"


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("kind", ["dp", "tp"])
async def test_workers_of_two_ranks_answer_as_the_reference_where_the_decode_module_makes_the_first_token(
    ranks: Deployment, asked: httpx.AsyncClient, models: Path, kind: str
) -> None:
    """The requests bypass the router, which would mark them by the workers' cards."""
    reference = Reference(models / "llama-a", models / "llama-base", "decode")
    prefill, decode = (ranks.process(f"{kind}-{role}-0").url for role in ("prefill", "decode"))
    card = (await asked.get(f"{prefill}/sun/worker")).json()

    async def answer(i: int, prompt: list[int]) -> Any:
        body = {
            "input_ids": prompt,
            "sampling_params": {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "ignore_eos": True},
            "extra_key": mark_decode_first("ranks"),
            "bootstrap_host": "127.0.0.1",
            "bootstrap_port": card["bootstrap_port"],
            "bootstrap_room": random.getrandbits(62) + 1,
        }
        rank = {"disagg_prefill_dp_rank": i % 2} if kind == "dp" else {}
        routed = {"routed_dp_rank": i % 2} if kind == "dp" else {}
        _, decoded = await gather(
            asked.post(f"{prefill}/generate", json={**body, **rank, **routed}),
            asked.post(f"{decode}/generate", json={**body, **rank}),
        )
        return decoded.json()

    prompts = [some_tokens(200 + seed, 20) for seed in range(8)]
    replies = await gather(*(answer(i, prompt) for i, prompt in enumerate(prompts)))
    for prompt, reply in zip(prompts, replies, strict=True):
        reference.check(prompt, reply["output_ids"])
    reference.require_few_ties()


@pytest.mark.invariant("I24")
async def test_ranks_change_between_modules_together(ranks: Deployment, asked: httpx.AsyncClient, models: Path) -> None:
    references = {name: Reference(models / f"llama-{name}", models / "llama-base") for name in "ab"}
    jobs = [("ab"[i % 2], some_tokens(400 + i, 5 + 3 * i)) for i in range(24)]
    replies = await gather(*(generate(asked, {"a": "tp", "b": "turn"}[m], p, ANSWER_TOKENS) for m, p in jobs))
    for (module, prompt), reply in zip(jobs, replies, strict=True):
        references[module].check(prompt, reply["output_ids"])
    page = (await asked.get(f"{ranks.process('tp-prefill-0').url}{MODULES_PATH}")).json()
    assert len(page["changed"]) == 2, "to the other module and back"


@pytest.mark.parametrize("worker", ["dp-prefill-0", "dp-decode-0", "tp-prefill-0", "tp-decode-0"])
async def test_each_of_two_schedulers_proved_its_hooks(
    ranks: Deployment, asked: httpx.AsyncClient, worker: str
) -> None:
    url = ranks.process(worker).url
    info = (await asked.get(f"{url}/server_info")).json()
    assert len({proof["pid"] for proof in info["sun_patches"]}) == 2
    assert all(report["state"] == "applied" for proof in info["sun_patches"] for report in proof["patches"])
    assert [proof["kv_cache_dtype"] for proof in info["sun_patches"]] == ["auto", "auto"]
    card = (await asked.get(f"{url}/sun/worker")).json()
    assert card["identity"]["kv_cache_dtype"] == "auto"
    assert card["dp_size"] == (2 if worker.startswith("dp") else 1)


async def test_killed_scheduler_behind_a_controller_ends_its_worker(
    ranks: Deployment, asked: httpx.AsyncClient
) -> None:
    before = ranks.process("dp-decode-0")
    info = (await asked.get(f"{before.url}/server_info")).json()
    os.kill(info["sun_patches"][1]["pid"], signal.SIGKILL)
    async with asyncio.timeout(200):
        while psutil.pid_exists(before.pid):
            await asyncio.sleep(0.1)
