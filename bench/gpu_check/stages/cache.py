"""The decode worker's cache: which tokens it keeps, and which tasks share them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from sun_sglang.bench.gpu_check.context import PAGE, Context
from sun_sglang.bench.gpu_check.deployment import Client, Deployment
from sun_sglang.bench.gpu_check.errors import require
from sun_sglang.bench.gpu_check.models.reference import AnswerChecker, Reference
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.gpu_check.stages.exactness import random_prompt
from sun_sglang.patches.cache.prefill_hits import DECODE_HITS_KEY

# prompt, answer and new text of a turn, in tokens: prompt and answer together pass a page that the prompt does not fill
_PROMPT, _ANSWER, _TURN = 2 * PAGE - 8, 24, 10
_CONVERSATIONS = 3
# prompts that the second and the third turn repeat
_MOST_CACHED = (_PROMPT, _PROMPT + _ANSWER + _TURN)


def one_token_pages(context: Context) -> dict[str, Any]:
    """Check pages of one token: a later turn reuses the prompts of earlier turns, and none of their answers."""
    return asyncio.run(check_conversations(context.core, "llama-a", context.reference("llama", "a"), _MOST_CACHED))


def large_pages(context: Context) -> dict[str, Any]:
    """Check pages of 64 tokens: as `one_token_pages`, in whole pages."""
    whole = [n // PAGE * PAGE for n in _MOST_CACHED]
    return asyncio.run(check_conversations(context.core, "pages", context.reference("llama", "a"), whole))


async def check_conversations(
    deployment: Deployment, task: str, reference: Reference, expected: Sequence[int] | None
) -> dict[str, Any]:
    """Hold conversations of three turns, and judge every token of them.

    Args:
        deployment: a running deployment.
        task: the task; its prefill pool has one worker.
        reference: its expected answers.
        expected: tokens that the decode worker finds in the second and in the third turn; None requires some, and none
            of an answer.

    Raises:
        CheckError: a token is wrong, or a turn finds another number of tokens.
    """
    rng = random.Random(PAGE)
    checker = AnswerChecker(reference)
    turns = []
    async with deployment.client() as client:
        prefill = await client.prefill_worker(task)
        for _ in range(_CONVERSATIONS):
            prompt = random_prompt(rng, _PROMPT, _PROMPT)
            cached = []
            for _turn in range(3):
                # the prompt is then transferred from a prefill worker that computed all of it
                await client.flush_cache(prefill)
                reply = await client.generate(task, prompt, _ANSWER)
                cached.append(decode_hits(reply))
                checker.check(prompt, reply["output_ids"], f"task `{task}`, turn {len(cached)}")
                prompt = prompt + reply["output_ids"] + random_prompt(rng, _TURN, _TURN)
            if expected is None:
                right = all(0 < n <= most for n, most in zip(cached[1:], _MOST_CACHED, strict=True))
                wanted = f"1 to {_MOST_CACHED[0]}, then 1 to {_MOST_CACHED[1]}"
            else:
                right, wanted = cached[1:] == list(expected), f"{expected[0]}, then {expected[1]}"
            require(right, f"cached tokens of three turns: {cached}; expected after the first turn: {wanted}")
            turns.append(cached)
    return {"cached_tokens_by_turn": turns[-1], **checker.counts()}


def namespaces(context: Context) -> dict[str, Any]:
    """Check two tasks with one prompt: each gets its own answer, and reuses its own KV on the shared decode worker."""
    return asyncio.run(_namespaces(context))


async def _namespaces(context: Context) -> dict[str, Any]:
    prompt = random_prompt(random.Random(11), 90, 90)
    checkers = {f"llama-{name}": AnswerChecker(context.reference("llama", name)) for name in "ab"}
    async with context.core.client() as client:
        for task in ("llama-a", "llama-b", "llama-a", "llama-b"):
            checkers[task].check(prompt, (await client.generate(task, prompt, _ANSWER))["output_ids"], f"task `{task}`")
        cached = await _cached(client, "llama-b", prompt)
    reused = f"the second task reuses {cached} of {len(prompt)} tokens of its own KV on the decode worker"
    require(cached >= len(prompt) - 1, reused)
    return {task: checker.counts() for task, checker in checkers.items()} | {"cached_tokens": cached}


async def _cached(client: Client, task: str, prompt: list[int]) -> int:
    return decode_hits(await client.generate(task, prompt, 4))


def decode_hits(reply: Mapping[str, Any]) -> int:
    """Return how many prompt tokens the decode worker found in its cache (`patches/cache/prefill_hits.py`)."""
    return int((reply["meta_info"]["cached_tokens_details"] or {}).get(DECODE_HITS_KEY, 0))


STAGES = (
    Stage("cache", "prompt-only cache: pages of one token", one_token_pages),
    Stage("cache-pages", f"prompt-only cache: pages of {PAGE} tokens", large_pages),
    Stage("namespaces", "two tasks with one prompt keep their own KV", namespaces),
)
