"""Equal prefix caches before each run: emptied, or full of other prompts."""

from __future__ import annotations

import asyncio

import aiohttp

from sun_sglang.bench.load.client.endpoint import Endpoint, client_session
from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.serving.preflight import first_prompt
from sun_sglang.bench.serving.run_report import Caches
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.targets.target import Target

_WAIT = 30
_SHOWN = 300


async def equal_caches(
    target: Target, settings: BenchSettings, *, fresh: bool, alone: bool, number: int
) -> tuple[BenchSettings, Caches]:
    """Make the caches of a target ready for a run; return the settings of the run and what its caches have.

    Args:
        target: what is measured.
        settings: the settings of the run.
        fresh: whether the target was just started.
        alone: whether the benchmark has one run only: then nothing is emptied.
        number: number of the run among those of the target, from 0: gives the run other prompts.

    Raises:
        BenchError: the target did not empty its caches.
    """
    if fresh:
        return settings, "fresh"
    if alone:
        return settings, "as_found"
    if target.flushes:
        await _flush(target)
        return settings, "flushed"
    workload = settings.workload
    if workload.input_file and not isinstance(first_prompt(build(workload)), tuple):
        # a seed changes the order of a file's texts, and not the texts
        return settings, "as_found"
    seed = (workload.random_seed if workload.prompt_seed is None else workload.prompt_seed) + number
    changed = workload.model_copy(update={"prompt_seed": seed})
    return settings.model_copy(update={"workload": changed}), "other_prompts"


async def _flush(target: Target) -> None:
    async with client_session(timeout=_WAIT + 30) as session:
        await asyncio.gather(*(_flush_one(session, target.name, endpoint) for endpoint in target.flushes))


async def _flush_one(session: aiohttp.ClientSession, name: str, endpoint: Endpoint) -> None:
    url = f"{endpoint.url}/flush_cache?timeout={_WAIT}"
    try:
        async with session.post(url, headers=endpoint.headers, ssl=endpoint.ssl) as reply:
            status, text = reply.status, (await reply.text(errors="replace")).strip()
    except (aiohttp.ClientError, OSError, TimeoutError) as e:
        raise BenchError(f"{name}: its caches cannot be emptied before the next run: {e or type(e).__name__}") from e
    if status != 200:
        raise BenchError(
            f"{name}: its caches were not emptied before the next run ({status}: {text[:_SHOWN]}); nothing else may "
            "send requests meanwhile"
        )
