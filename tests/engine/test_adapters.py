"""Tasks that are LoRA adapters of one prefill pool: answers through the whole stack equal PEFT's."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import httpx

from sun_sglang.bench.polling import wait_until
from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.contracts.adapters_report import ADAPTERS_PATH, AdaptersReport
from tests.engine.adapters import adapted, write_adapter
from tests.engine.conftest import Deployment, Reference, events_of, frozen, gather, generate, some_tokens
from tests.engine.watch import SOON, transfers_reach
from tests.support import adapters as small_adapters

# four tasks of one prefill pool, and a task with a full module; the pool has two slots beside the base's
ADAPTED = ("adapter-all", "adapter-part", "adapter-last")
TASKS = ("bare", *ADAPTED, "llama-b")
LENGTH = 16


async def test_adapters_of_several_ranks_in_one_batch_answer_as_peft(
    client: httpx.AsyncClient, deployment: Deployment, task_references: dict[str, Reference]
) -> None:
    asked = [(task, some_tokens(800 + i, 9 + 11 * i)) for i, task in enumerate(TASKS)]
    # the same prompt for all: nobody's KV or answer is another's
    same = some_tokens(820, 40)
    asked += [(task, same) for task in TASKS]
    with frozen(deployment, "spare-a-0"):
        replies = asyncio.gather(*(generate(client, t, p, LENGTH, stream=i % 3 == 0) for i, (t, p) in enumerate(asked)))
        # they are in the prefill worker's queue together when it goes on
        await transfers_reach(client, deployment, "llama-base-0", sum(task != "llama-b" for task, _ in asked))
    for (task, prompt), reply in zip(asked, await replies, strict=True):
        task_references[task].check(prompt, reply["output_ids"])
    answers = {task: task_references[task].answer(same, LENGTH) for task in TASKS}
    assert len(set(answers.values())) == len(TASKS), "the reference tells tasks apart"
    # again, in the other order: each finds its own prompt in the caches
    for task, prompt in reversed(asked):
        reply = await generate(client, task, prompt, LENGTH)
        task_references[task].check(prompt, reply["output_ids"])
    for task in TASKS:
        task_references[task].require_few_ties()


async def test_conversations_of_adapters_answer_as_peft_and_find_their_own_prompts(
    client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    rng = random.Random(830)
    begin = some_tokens(831, 30)
    conversations = dict.fromkeys(("bare", *ADAPTED), begin)
    for turn in range(3):
        asked = list(conversations.items())
        replies = await gather(*(generate(client, task, prompt, LENGTH, stream=turn == 1) for task, prompt in asked))
        for (task, prompt), reply in zip(asked, replies, strict=True):
            task_references[task].check(prompt, reply["output_ids"])
            assert (reply["meta_info"]["cached_tokens"] > 0) == (turn > 0), "only a task's own prompts are in a cache"
            conversations[task] = [*prompt, *reply["output_ids"], *(rng.randrange(5, 260) for _ in range(9))]
    for task in conversations:
        task_references[task].require_few_ties()


async def test_adapters_are_added_changed_and_removed_while_others_are_served(
    client: httpx.AsyncClient,
    deployment: Deployment,
    models: Path,
    task_references: dict[str, Reference],
    tmp_path: Path,
) -> None:
    base = models / "llama-a"
    paths = [write_adapter(tmp_path / f"live-{rank}", base, rank, rank=rank) for rank in (3, 5)]
    names = [read_adapter(path).name for path in paths]
    references = [Reference(base, models / "llama-base") for _ in paths]
    for reference, path in zip(references, paths, strict=True):
        reference.prefill = adapted(reference.prefill, path)
    prompt = some_tokens(840, 30)
    done = asyncio.Event()

    async def keep_asking(task: str, seed: int) -> int:
        asked = 0
        while not done.is_set():
            own = some_tokens(seed + asked, 20)
            task_references[task].check(own, (await generate(client, task, own, LENGTH))["output_ids"])
            asked += 1
        return asked

    others = [asyncio.create_task(keep_asking(task, 1000 * i)) for i, task in enumerate(("bare", *ADAPTED), 9)]
    try:
        settings = {"prefill": "spare-a", "decode": "llama-base"}
        wrong = small_adapters.write_adapter(tmp_path / "wrong")
        refused = await client.post("/tasks", json=settings | {"name": "live", "adapter": str(wrong)})
        assert refused.status_code >= 400
        assert "spare-a-0" in refused.text
        assert "it is an adapter of another model" in refused.text
        added = await client.post("/tasks", json=settings | {"name": "live", "adapter": str(paths[0])})
        assert added.status_code == 201, added.text
        references[0].check(prompt, (await generate(client, "live", prompt, LENGTH))["output_ids"])
        # an answer that began before a change ends as it began
        sampling = {"temperature": 0, "max_new_tokens": 10 * LENGTH, "ignore_eos": True}
        body = {"model": "live", "input_ids": prompt, "stream": True, "sampling_params": sampling}
        events = events_of(client, "/generate", body)
        await anext(events)
        changed = await client.put("/tasks/live", json={"adapter": str(paths[1])})
        assert changed.status_code == 200, changed.text
        references[1].check(prompt, (await generate(client, "live", prompt, LENGTH))["output_ids"])
        *_, last, _end = [event async for event in events]
        references[0].check(prompt, json.loads(last)["output_ids"])
        removed = await client.delete("/tasks/live")
        assert removed.status_code == 200, removed.text
        assert (await client.post("/generate", json={"model": "live", "input_ids": prompt})).status_code == 404
    finally:
        done.set()
    assert min(await asyncio.gather(*others)) > 0
    url = deployment.process("spare-a-0").url

    async def resident() -> set[str]:
        report = AdaptersReport.model_validate((await client.get(f"{url}{ADAPTERS_PATH}")).json())
        return set(report.resident) & set(names)

    await wait_until(resident, "removed adapters leave the worker", within=SOON, accept=lambda left: not left)
