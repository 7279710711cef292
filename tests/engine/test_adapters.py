"""Tasks that are LoRA adapters of one prefill pool: answers through the whole stack equal PEFT's."""

from __future__ import annotations

import asyncio
import random

import httpx

from tests.engine.conftest import Deployment, Reference, frozen, gather, generate, some_tokens
from tests.engine.watch import transfers_reach

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
