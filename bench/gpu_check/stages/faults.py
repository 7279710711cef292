"""A full cache, clients that leave, and a decode worker that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import psutil

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.deployment import Client, unfinished_work
from sun_sglang.bench.gpu_check.errors import require
from sun_sglang.bench.gpu_check.machine import gpu_memory_used
from sun_sglang.bench.gpu_check.models.reference import AnswerChecker
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.gpu_check.stages.exactness import random_prompt
from sun_sglang.bench.polling import wait_until

_SOON = 60.0
_RESTART = 240.0
_POLL = 0.05
# MiB by which a driver's figure may differ between two moments
_MEMORY_SLACK = 512


def retraction(context: Context) -> dict[str, Any]:
    """Check eight answers that do not fit in the decode worker's KV: retracted and resumed, each is right."""
    return asyncio.run(_retraction(context))


async def _retraction(context: Context) -> dict[str, Any]:
    rng = random.Random(5)
    prompts = [random_prompt(rng, 40, 40) for _ in range(8)]
    checker = AnswerChecker(context.reference("llama", "a"))
    async with context.core.client() as client:
        replies = await asyncio.gather(*(client.generate("small", prompt, 100) for prompt in prompts))
        retracted = sum(reply["meta_info"].get("num_retractions") or 0 for reply in replies)
        require(retracted > 0, "no request was retracted: the stage checked nothing")
        for prompt, reply in zip(prompts, replies, strict=True):
            checker.check(prompt, reply["output_ids"], "a retracted answer")
    return {"retractions": retracted, **checker.counts()}


def aborts(context: Context) -> dict[str, Any]:
    """Check sixteen clients that leave during their streams: both workers become idle and answer as before."""
    return asyncio.run(_aborts(context))


async def _aborts(context: Context) -> dict[str, Any]:
    rng = random.Random(6)
    checker = AnswerChecker(context.reference("llama", "a"))
    async with context.core.client() as client:
        await asyncio.gather(*(_leave(client, random_prompt(rng, 200)) for _ in range(16)))

        async def idle() -> bool:
            loads = [load for worker in ("llama-a-0", "llama-base-0") for load in await client.loads(worker)]
            return not any(count for load in loads for count in unfinished_work(load).values())

        await wait_until(
            idle,
            "workers have no requests, used tokens or queued transfers after their clients left",
            within=_SOON,
            interval=_POLL,
        )
        for _ in range(4):
            prompt = random_prompt(rng, 100)
            checker.check(prompt, (await client.generate("llama-a", prompt, 24))["output_ids"], "after the aborts")
    return checker.counts()


async def _leave(client: Client, prompt: list[int]) -> None:
    async with contextlib.aclosing(client.stream("llama-a", prompt, 1500)) as chunks:
        require(await anext(chunks, None) is not None, "a stream ends without a token")


def kill(context: Context) -> dict[str, Any]:
    """Kill a decode worker with SIGKILL: it restarts, its GPU memory is freed, and its answers are right."""
    return asyncio.run(_kill(context))


async def _kill(context: Context) -> dict[str, Any]:
    rng = random.Random(8)
    checker = AnswerChecker(context.reference("llama", "a"))
    name = "llama-base-0"
    async with context.core.client() as client:
        prompt = random_prompt(rng, 100)
        checker.check(prompt, (await client.generate("llama-a", prompt, 24))["output_ids"], "before the kill")
        before = gpu_memory_used(context.gpus[:1])
        old = context.core.process(name)
        scheduler = next(
            p for p in psutil.Process(old.pid).children(recursive=True) if "scheduler" in " ".join(p.cmdline())
        )
        scheduler.kill()

        async def restarted() -> bool:
            return context.core.process(name).restarts > old.restarts and await client.is_whole()

        await wait_until(restarted, f"`{name}` runs again and every path is proven", within=_RESTART, interval=_POLL)
        for _ in range(4):
            prompt = random_prompt(rng, 100)
            checker.check(prompt, (await client.generate("llama-a", prompt, 24))["output_ids"], "after the restart")
        after = gpu_memory_used(context.gpus[:1])
    require(
        context.device == "cpu" or abs(after - before) <= _MEMORY_SLACK,
        f"GPU memory was {before} MiB before the kill and is {after} MiB after the restart",
    )
    memory = {"gpu_memory_mib": [before, after]} if context.gpus else {}
    return memory | checker.counts()


STAGES = (
    Stage("retraction", "a full KV cache: retracted answers are right", retraction),
    Stage("aborts", "clients that leave leave nothing behind", aborts),
    Stage("kill", "SIGKILL of a decode worker: restart, GPU memory as before", kill),
)
