"""Several answers to one prompt: computed prompt tokens, and the time to the first token of the last answer.

    sun launch configs/demo/sun.yaml
    python -m sun_sglang.bench.router.shared_prompt http://127.0.0.1:8000 math

Needs a running deployment of real workers. Each prompt is sent in three ways, interleaved, each time with a prompt that
no worker has seen: `n` is one request for all answers; `at_once` is as many requests at the same time, whose prefills
share nothing; `first_alone` sends the other requests once the first has its first token, whatever the prompt's length.
The shortest prompt at which `first_alone` gains is the router's threshold (`router/dispatch/shared_prompt.py`).
Writes every run to `bench/results/router_shared_prompt.json`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import aiohttp
import typer
from rich.console import Console

from sun_sglang.bench.report import RESULTS, Case, Run, median_table, new_report, write_report

UNITS = {"computed_tokens": "1", "first_ttft_ms": "ms", "last_ttft_ms": "ms"}
_LEAST_ID = 5


class Answer(NamedTuple):
    """One answer: prompt tokens that were computed for it, and its first token's time (`time.perf_counter`)."""

    computed: int
    first: float


Way = Callable[[aiohttp.ClientSession, dict[str, Any], int], Awaitable[list[Answer]]]


def main(
    url: Annotated[str, typer.Argument(help="The router of a running deployment.")],
    task: Annotated[str, typer.Argument(help="The task to ask.")],
    lengths: Annotated[list[int], typer.Option("--length", min=1, help="Tokens of the prompt.")] = [  # noqa: B006 - typer copies it
        *(64, 128, 256, 512, 1000),
    ],
    answers: Annotated[list[int], typer.Option(min=2, help="Answers to each prompt.")] = [2, 8],  # noqa: B006 - typer copies it
    repetitions: Annotated[int, typer.Option(min=1)] = 9,
    vocab: Annotated[int, typer.Option(min=16, help="Prompts are random token ids below this number.")] = 250,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 8,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "router_shared_prompt.json",
) -> None:
    """Measure every way at every length, print medians and write the report."""
    options = {"length": lengths, "answers": answers, "repetitions": [repetitions]}
    runs = asyncio.run(_measure(url, task, lengths, answers, repetitions, vocab, tokens))
    given = " ".join(f"--{name} {value}" for name, values in options.items() for value in values)
    command = f"python -m sun_sglang.bench.router.shared_prompt URL {task} {given}"
    report = new_report("router_shared_prompt", command, runs, UNITS, settings={"vocab": vocab, "tokens": tokens})
    write_report(report, out)
    Console().print(median_table(report))


async def _measure(
    url: str, task: str, lengths: list[int], answers: list[int], repetitions: int, vocab: int, tokens: int
) -> list[Run]:
    rng = random.Random(0)
    runs: list[Run] = []
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=300)) as client:
        # one more round before, which is not counted: connections, and the first batch of each size
        for repetition, length, count in product(range(-1, repetitions), lengths, answers):
            names = list(WAYS)
            turn = repetition % len(names)
            for name in names[turn:] + names[:turn]:
                prompt = [rng.randrange(_LEAST_ID, vocab) for _ in range(length)]
                params = {"max_new_tokens": tokens, "temperature": 1, "ignore_eos": True}
                body = {"model": task, "input_ids": prompt, "sampling_params": params, "stream": True}
                values = await _timed(client, WAYS[name], body, count)
                if repetition >= 0:
                    case: Case = {"way": name, "answers": count, "prompt": length}
                    runs.append(Run(case=case, repetition=repetition, values=values))
    return runs


async def _timed(client: aiohttp.ClientSession, way: Way, body: dict[str, Any], count: int) -> dict[str, float]:
    began = time.perf_counter()
    made = await way(client, body, count)
    return {
        "computed_tokens": sum(answer.computed for answer in made),
        "first_ttft_ms": round(1000 * (min(answer.first for answer in made) - began), 2),
        "last_ttft_ms": round(1000 * (max(answer.first for answer in made) - began), 2),
    }


async def _n(client: aiohttp.ClientSession, body: dict[str, Any], count: int) -> list[Answer]:
    params = body["sampling_params"] | {"n": count}
    return await _ask(client, body | {"sampling_params": params})


async def _at_once(client: aiohttp.ClientSession, body: dict[str, Any], count: int) -> list[Answer]:
    return [answer for (answer,) in await asyncio.gather(*(_ask(client, body) for _ in range(count)))]


async def _first_alone(client: aiohttp.ClientSession, body: dict[str, Any], count: int) -> list[Answer]:
    started = asyncio.Event()

    async def others() -> list[Answer]:
        await started.wait()
        return await _at_once(client, body, count - 1)

    async with asyncio.TaskGroup() as group:
        made = [group.create_task(_ask(client, body, started)), group.create_task(others())]
    return [answer for task in made for answer in task.result()]


async def _ask(
    client: aiohttp.ClientSession, body: Mapping[str, Any], started: asyncio.Event | None = None
) -> list[Answer]:
    """Send one request for one or several answers.

    Args:
        client: of the router.
        body: the request.
        started: set at the first token of an answer.
    """
    first: dict[int, float] = {}
    meta: dict[int, dict[str, Any]] = {}
    async with client.post("/generate", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise RuntimeError(f"the router ended the stream: {event['error']}")
            index = event.get("index", 0)
            first.setdefault(index, time.perf_counter())
            meta[index] = event["meta_info"]
            if started is not None:
                started.set()
    return [Answer(meta[i]["prompt_tokens"] - meta[i]["cached_tokens"], first[i]) for i in sorted(first)]


WAYS: Mapping[str, Way] = {"n": _n, "at_once": _at_once, "first_alone": _first_alone}


if __name__ == "__main__":
    typer.run(main)
