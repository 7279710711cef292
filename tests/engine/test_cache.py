"""The contents of the decode worker's cache, and the tasks that share them."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.conftest import Deployment, Reference, frozen, gather, generate
from tests.engine.watch import transfers_reach

TURNS = 3


async def converse(
    client: httpx.AsyncClient, deployment: Deployment, task: str, seed: int
) -> tuple[list[tuple[list[int], list[int]]], int]:
    """Hold a conversation of three turns; return each turn's prompt and answer, and the decode worker's hits later."""
    rng = random.Random(seed)
    prompt = [rng.randrange(5, 261) for _ in range(40)]
    turns, cached = [], 0
    for turn in range(TURNS):
        prefill = (await client.get("/tasks")).json()["tasks"][task]["prefill"]["workers"][0]["name"]
        await forget(client, deployment, prefill)
        reply = await generate(client, task, prompt, 24)
        turns.append((prompt, reply["output_ids"]))
        cached += decode_hits(reply) if turn else 0
        assert reply["meta_info"]["cached_tokens"] == 0, "the prefill worker computed all of it"
        prompt = prompt + reply["output_ids"] + [rng.randrange(5, 261) for _ in range(10)]
    return turns, cached


def decode_hits(reply: Any) -> int:
    """Return how many prompt tokens the decode worker found in its cache."""
    hits: int = (reply["meta_info"]["cached_tokens_details"] or {}).get("decode", 0)
    return hits


async def forget(client: httpx.AsyncClient, deployment: Deployment, worker: str) -> None:
    reply = await client.post(f"{deployment.process(worker).url}/flush_cache", params={"timeout": 10})
    assert reply.status_code == 200, reply.text


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("task", ["llama-a", "pages"])
async def test_a_conversation_is_the_same_with_the_cache_on_and_off(
    client: httpx.AsyncClient, deployment: Deployment, task: str
) -> None:
    for seed in range(4):
        cached_turns, cached = await converse(client, deployment, task, seed)
        uncached_turns, uncached = await converse(client, deployment, "uncached", seed)
        assert cached_turns == uncached_turns
        # turn 2 finds the 40 tokens of turn 1's prompt, turn 3 the 74 of turn 2's; whole pages of them
        assert cached == (32 + 64 if task == "pages" else 40 + 74)
        assert uncached == 0


async def test_sglangs_own_cache_changes_a_conversation(client: httpx.AsyncClient, deployment: Deployment) -> None:
    """The requests bypass the router. While this test passes, the prompt-only cache is needed."""
    differing = 0
    for seed in range(4):
        uncached_turns, _ = await converse(client, deployment, "uncached", seed)
        answers, cached = [], 0
        for prompt, answer in uncached_turns:
            await forget(client, deployment, "llama-a-0")
            body = {"temperature": 0, "max_new_tokens": len(answer), "ignore_eos": True}
            # each turn's prompt holds the uncached answer: what differs then differs by the cache
            reply = await ask_pair(client, deployment, "llama-a-0", prompt, "stock-0", sampling_params=body)
            answers.append(reply["output_ids"])
            cached += decode_hits(reply)
        assert answers[0] == uncached_turns[0][1]
        assert cached > 40 + 74, "it keeps what the decode module made, too"
        differing += answers != [answer for _, answer in uncached_turns]
    assert differing >= 2


async def test_a_cache_that_keeps_answers_is_not_used_for_a_task_with_other_weights(
    client: httpx.AsyncClient, deployment: Deployment
) -> None:
    """`stock` keeps the KV of answers, which llama-base made; llama-a would have made other KV."""
    for seed in range(4):
        stock_turns, cached = await converse(client, deployment, "stock", seed)
        uncached_turns, _ = await converse(client, deployment, "uncached", seed)
        assert stock_turns == uncached_turns
        assert cached == 0


async def test_one_module_on_both_sides_reuses_its_answers_beside_a_task_with_another(
    client: httpx.AsyncClient, deployment: Deployment, models: Path
) -> None:
    """`own` shares its decode worker with `stock`, whose prefill weights differ."""
    reference = Reference(models / "llama-base", models / "llama-base")
    for seed in range(20, 22):
        other, _ = await converse(client, deployment, "stock", seed)
        turns, cached = await converse(client, deployment, "own", seed)
        assert cached > 40 + 74, "answers too"
        assert turns[0][0] == other[0][0], "the same first prompt, and no KV of the other task"
        for prompt, answer in turns:
            reference.check(prompt, answer)
    reference.require_few_ties()


async def test_a_decode_pool_of_one_module_and_others_keeps_prompts_only(
    client: httpx.AsyncClient, deployment: Deployment, models: Path
) -> None:
    """The prefill weights of `mixed` are the decoder's, those of llama-a and llama-b are not."""
    reference = Reference(models / "llama-base", models / "llama-base")
    turns, cached = await converse(client, deployment, "mixed", 30)
    assert cached == 40 + 74
    for prompt, answer in turns:
        reference.check(prompt, answer)
    reference.require_few_ties()


async def test_tasks_of_one_prefill_pool_share_its_cache_and_the_prompts_of_a_common_decoder(
    client: httpx.AsyncClient, deployment: Deployment, models: Path
) -> None:
    """`twin` has both pools of llama-a; `uncached` has its prefill pool and another decoder."""
    rng = random.Random(40)
    reference = Reference(models / "llama-a", models / "llama-base")
    prompt = [rng.randrange(5, 261) for _ in range(40)]
    await forget(client, deployment, "llama-a-0")
    first = await generate(client, "llama-a", prompt, 24)
    later = prompt + first["output_ids"] + [rng.randrange(5, 261) for _ in range(10)]
    seen = len(deployment.process("llama-a-0").log.read_bytes())
    # on the prefill side the other decoder does not matter
    reference.check(prompt, (await generate(client, "uncached", prompt, 24))["output_ids"])
    assert await prefill_hits(deployment, "llama-a-0", seen) >= 39
    # on the decode side its prompt is found, and nothing of its answer
    await forget(client, deployment, "llama-a-0")
    twin = await generate(client, "twin", later, 12)
    assert (decode_hits(twin), twin["meta_info"]["cached_tokens"]) == (40, 0)
    reference.check(later, twin["output_ids"])
    reference.require_few_ties()


async def prefill_hits(deployment: Deployment, worker: str, begin: int) -> int:
    """Return how many prompt tokens a prefill worker found in its cache, of the last batch in its log."""
    log = deployment.process(worker).log
    async with asyncio.timeout(60):
        while not (found := re.findall(r"#cached-token: (\d+)", log.read_bytes()[begin:].decode(errors="replace"))):
            await asyncio.sleep(0.05)
    return int(found[-1])


async def test_retracted_requests_answer_as_the_reference_and_leave_only_their_prompts(
    client: httpx.AsyncClient, deployment: Deployment, models: Path
) -> None:
    """A full decode worker puts requests aside with part of their answer, and resumes them later."""
    rng = random.Random(5)
    reference = Reference(models / "llama-a", models / "llama-base")
    prompts = [[rng.randrange(5, 261) for _ in range(40)] for _ in range(8)]
    with frozen(deployment, "llama-a-0"):
        running = [asyncio.create_task(generate(client, "small", prompt, 100)) for prompt in prompts]
        await transfers_reach(client, deployment, "small-0", 8)
    first = await gather(*running)
    assert any(reply["meta_info"]["num_retractions"] for reply in first), "or this shows nothing"
    for prompt, reply in zip(prompts, first, strict=True):
        reference.check(prompt, reply["output_ids"])
        later = prompt + reply["output_ids"] + [7, 8, 9]
        # generated KV that stayed in the cache would be found here, and change the answer
        reference.check(later, (await generate(client, "small", later, 12))["output_ids"])
    reference.require_few_ties()


@pytest.mark.invariant("I7")
async def test_two_tasks_with_one_prompt_get_their_own_answers(client: httpx.AsyncClient, models: Path) -> None:
    prompt = [random.Random(11).randrange(5, 261) for _ in range(50)]
    references = {t: Reference(models / t, models / "llama-base") for t in ("llama-a", "llama-b")}
    for task in ("llama-a", "llama-b", "llama-a", "llama-b"):
        references[task].check(prompt, (await generate(client, task, prompt, 16))["output_ids"])
    assert (await generate(client, "llama-b", prompt, 16))["meta_info"]["cached_tokens"] > 0, "its own cache is hit"


async def test_without_a_namespace_the_second_task_gets_the_first_ones_kv(deployment: Deployment, models: Path) -> None:
    """The reason for the namespaces: SGLang with the requests of its own load balancer."""
    prompt = [random.Random(12).randrange(5, 261) for _ in range(50)]
    async with httpx.AsyncClient(timeout=60, headers=deployment.headers) as raw:
        first = await ask_pair(raw, deployment, "llama-a-0", prompt)
        second = await ask_pair(raw, deployment, "llama-b-0", prompt)
    a, b = (Reference(models / f"llama-{t}", models / "llama-base") for t in "ab")
    a.check(prompt, first["output_ids"])
    assert decode_hits(second) > 0
    assert tuple(second["output_ids"]) != b.answer(prompt, 16)


async def ask_pair(
    raw: httpx.AsyncClient,
    deployment: Deployment,
    prefill: str,
    prompt: list[int],
    decode: str = "llama-base-0",
    **fields: object,
) -> dict[str, Any]:
    """Send one request to a prefill worker and a decode worker, past the router."""
    p, d = deployment.process(prefill).url, deployment.process(decode).url
    card = (await raw.get(f"{p}/sun/worker")).json()
    body = {
        "input_ids": prompt,
        "sampling_params": {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True},
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": card["bootstrap_port"],
        "bootstrap_room": random.getrandbits(62) + 1,
        **fields,
    }
    _, decoded = await gather(raw.post(f"{p}/generate", json=body), raw.post(f"{d}/generate", json=body))
    return dict(decoded.json())


@pytest.mark.invariant("I9")
async def test_fault_16_a_clients_own_cache_key_stays_within_its_task(client: httpx.AsyncClient, models: Path) -> None:
    """`extra_key` empty, or another task's namespace: neither reaches another task's KV."""
    prompt = [random.Random(13).randrange(5, 261) for _ in range(50)]
    namespace = (await client.get("/tasks")).json()["tasks"]["llama-a"]["namespace"]
    await generate(client, "llama-a", prompt, 4)
    b = Reference(models / "llama-b", models / "llama-base")
    for extra_key in ("", namespace, "salt"):
        reply = await generate(client, "llama-b", prompt, 16, extra_key=extra_key)
        b.check(prompt, reply["output_ids"])


async def test_tasks_of_one_prefill_pool_extend_one_context_and_each_decode_pool_keeps_its_own(
    client: httpx.AsyncClient, deployment: Deployment, task_references: dict[str, Reference]
) -> None:
    """`pages` and `pages-share` have one prefill pool, and decode pools whose modules differ, also in the first token.

    An answer is prefilled as part of the next prompt: the reference does so, and no KV of a decode module is found.
    """
    rng, page = random.Random(60), 16
    context = [rng.randrange(5, 260) for _ in range(40)]
    await forget(client, deployment, "pages-a-0")
    last, own, computed = 0, dict[str, int](), 0
    for task in ("pages-share", "pages") * 2:
        reply = await generate(client, task, context, 24)
        cached = reply["meta_info"]["cached_tokens"]
        # whole pages of the call before, whichever task it was for, and of the call before of this task
        assert cached == last // page * page
        assert decode_hits(reply) == own.get(task, 0) // page * page
        task_references[task].check(context, reply["output_ids"])
        last = own[task] = len(context)
        computed += len(context) - cached
        context = context + reply["output_ids"] + [rng.randrange(5, 260) for _ in range(10)]
    assert computed == 40 + (74 - 32) + (108 - 64) + (142 - 96)
    for task in ("pages-share", "pages"):
        task_references[task].require_few_ties()
