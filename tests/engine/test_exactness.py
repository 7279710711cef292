"""Greedy answers of the whole stack equal a transformers reference with two models, token for token."""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import pytest

from tests.engine.conftest import Reference, gather, generate

ARCHITECTURES = ("llama", "qwen3")


def random_prompt(rng: random.Random, shortest: int = 1, longest: int = 120) -> list[int]:
    return [rng.randrange(5, 261) for _ in range(rng.randint(shortest, longest))]


@pytest.fixture(params=ARCHITECTURES)
def references(request: pytest.FixtureRequest, models: Path) -> dict[str, Reference]:
    """Return the references of an architecture's two tasks by task name."""
    name = request.param
    return {f"{name}-{t}": Reference(models / f"{name}-{t}", models / f"{name}-base") for t in "ab"}


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("batch", range(1, 9))
async def test_a_batch_of_two_tasks_answers_as_the_reference(
    client: httpx.AsyncClient, references: dict[str, Reference], batch: int
) -> None:
    rng = random.Random(batch)
    tasks = list(references)
    asked = [(tasks[i % 2], random_prompt(rng), i % 3 == 0) for i in range(batch)]
    replies = await gather(*(generate(client, task, prompt, 24, stream=s) for task, prompt, s in asked))
    for (task, prompt, _), reply in zip(asked, replies, strict=True):
        assert reply["meta_info"]["prompt_tokens"] == len(prompt)
        assert reply["meta_info"]["completion_tokens"] == 24
        references[task].check(prompt, reply["output_ids"])
    for reference in references.values():
        reference.require_few_ties()


@pytest.mark.invariant("I10")
async def test_conversations_answer_as_the_reference(
    client: httpx.AsyncClient, references: dict[str, Reference]
) -> None:
    rng = random.Random(100)
    conversations = {(task, i): random_prompt(rng, 20, 60) for task in references for i in range(3)}
    for turn in range(3):
        asked = list(conversations.items())
        replies = await gather(*(generate(client, task, prompt, 16, stream=turn == 1) for (task, _), prompt in asked))
        for ((task, i), prompt), reply in zip(asked, replies, strict=True):
            references[task].check(prompt, reply["output_ids"])
            if turn > 0:
                assert reply["meta_info"]["cached_tokens"] > 0, "a later turn has to find the earlier one's prompt"
            conversations[task, i] = prompt + reply["output_ids"] + random_prompt(rng, 5, 20)
    for reference in references.values():
        reference.require_few_ties()


async def test_the_reference_tells_the_modules_apart(models: Path) -> None:
    """The comparison above rejects answers of which the wrong module prefilled or decoded."""
    rng = random.Random(7)
    prompt = random_prompt(rng, 30, 30)
    right = Reference(models / "llama-a", models / "llama-base").answer(prompt, 16)
    wrong_prefill = Reference(models / "llama-b", models / "llama-base").answer(prompt, 16)
    wrong_decode = Reference(models / "llama-a", models / "llama-a").answer(prompt, 16)
    assert right != wrong_prefill
    assert right != wrong_decode
    assert right[0] == wrong_decode[0], "the first token comes from the prefill module"


async def test_pages_of_sixteen_tokens_answer_as_the_reference(client: httpx.AsyncClient, models: Path) -> None:
    reference = Reference(models / "llama-a", models / "llama-base")
    rng = random.Random(3)
    prompts = [random_prompt(rng) for _ in range(6)]
    for reply, prompt in zip(await gather(*(generate(client, "pages", p, 40) for p in prompts)), prompts, strict=True):
        reference.check(prompt, reply["output_ids"])
    reference.require_few_ties()
