"""Latency of a real or random checkpoint: ready, first token, later tokens; with the workers probed and not."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.deployment import Client, Deployment
from sun_sglang.bench.gpu_check.errors import require
from sun_sglang.bench.gpu_check.quiet_router import paused_router, quiet_router
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.gpu_check.stages.exactness import random_prompt
from sun_sglang.bench.polling import wait_until

_CLIENTS = 8
_PROMPT = 512


class LoadSize(NamedTuple):
    """Requests of a round, and tokens of an answer."""

    requests: int
    answer: int


_LOAD_SIZES = {"cuda": LoadSize(32, 128), "cpu": LoadSize(8, 32)}
# the arms of the comparison, in an order in which neither is always first
_ROUNDS = ("probes", "no_probes", "no_probes", "probes", "probes", "no_probes")
_SOON = 60.0


class StreamTimes(NamedTuple):
    """Seconds of one streamed answer: to its first token, and between each two chunks."""

    ttft: float
    gaps: tuple[float, ...]


def latency(context: Context) -> dict[str, Any]:
    """Serve one model on both sides under a constant number of clients; probe the workers in every second arm."""
    model = context.model or context.checkpoint("llama", "base", 0)
    load = _LOAD_SIZES[context.device]
    pools = {"base": context.pool("decode", model), "own": context.pool("prefill", model, enable_metrics=True)}
    tasks = {"own": {"prefill": "own", "decode": "base"}}
    with closing(context.launch("latency", pools, tasks)) as deployment:
        rounds, speed = asyncio.run(_run_rounds(context, deployment, load))
        ready = deployment.state.seconds_to_ready
    return {
        "model": "given" if context.model else "random",
        "clients": _CLIENTS,
        "prompt_tokens": _PROMPT,
        "answer_tokens": load.answer,
        "seconds_to_ready": ready,
        "kv_transfer_gb_per_s": round(speed, 3),
        **{arm: _summary(of_arm, load) for arm, of_arm in rounds.items()},
    }


class Round(NamedTuple):
    """One round of one arm: the times of its answers, and its duration in seconds."""

    times: tuple[StreamTimes, ...]
    seconds: float


async def _run_rounds(
    context: Context, deployment: Deployment, load: LoadSize
) -> tuple[Mapping[str, list[Round]], float]:
    """Return the rounds of each arm, and the GB/s of KV transfers by the prefill worker's metrics."""
    rng = random.Random(0)
    rounds: dict[str, list[Round]] = defaultdict(list)
    async with quiet_router(deployment, context.work / "latency") as url, deployment.client(url) as client:
        await wait_until(client.all_paths_proven, "the second router has proven its path", within=_SOON, interval=0.05)
        await _round(client, rng, load)
        for arm in _ROUNDS:
            with paused_router(deployment) if arm == "no_probes" else nullcontext():
                rounds[arm].append(await _round(client, rng, load))
        mebibytes = await client.metric("own-0", "sglang:kv_transfer_total_mb_sum")
        milliseconds = await client.metric("own-0", "sglang:kv_transfer_latency_ms_sum")
    require(milliseconds > 0, "the prefill worker's metrics count no KV transfer")
    return rounds, mebibytes * 2**20 / 1e9 / (milliseconds / 1000)


async def _round(client: Client, rng: random.Random, load: LoadSize) -> Round:
    waiting = [random_prompt(rng, _PROMPT, _PROMPT) for _ in range(load.requests)]
    times: list[StreamTimes] = []

    async def work() -> None:
        while waiting:
            times.append(await _timed(client, waiting.pop(), load.answer))

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_CLIENTS)))
    return Round(tuple(times), time.perf_counter() - start)


async def _timed(client: Client, prompt: list[int], length: int) -> StreamTimes:
    sent = time.perf_counter()
    at = [time.perf_counter() async for _ in client.stream("own", prompt, length)]
    return StreamTimes(at[0] - sent, tuple(b - a for a, b in pairwise(at)))


def _summary(rounds: Sequence[Round], load: LoadSize) -> dict[str, Any]:
    """Return medians and 99th percentiles over all answers of an arm, and tokens a second of each of its rounds."""
    times = [answer for one in rounds for answer in one.times]
    return {
        "answers": len(times),
        "tokens_per_s": [round(len(one.times) * load.answer / one.seconds) for one in rounds],
        "ttft_ms": _milliseconds([answer.ttft for answer in times]),
        "tpot_ms": _milliseconds([sum(answer.gaps) / (load.answer - 1) for answer in times]),
        "itl_ms": _milliseconds([gap for answer in times for gap in answer.gaps]),
    }


def _milliseconds(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    p99 = ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)]
    return {"median": round(1000 * statistics.median(ordered), 2), "p99": round(1000 * p99, 2)}


STAGES = (Stage("latency", "seconds to ready, TTFT, TPOT, ITL; probes on and off", latency),)
