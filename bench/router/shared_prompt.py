"""Several answers to one prompt: prompt tokens computed per request, and the first token's time of the last answer.

    sun launch configs/demo/sun.yaml
    python -m sun_sglang.bench.router.shared_prompt http://127.0.0.1:8000 math

Needs a running deployment of real workers. One client, and then several at the same time, each send a prompt that no
worker has seen in two ways, interleaved: `n` is one request for all answers; `at_once` is as many requests at the same
time, as the router sent the answers of one request before it let the first go ahead. On an idle prefill worker the
first of them is computed while the others connect, and SGLang shares the prompt itself; on a busy worker they wait
together, enter one batch, and each is computed. Numbers are means over the clients. Writes every run to
`bench/results/router_shared_prompt.json`.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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


class AnswerReader:
    """Collects the answers of one stream of `/generate`, line by line."""

    def __init__(self) -> None:
        self._first: dict[int, float] = {}
        self._meta: dict[int, dict[str, Any]] = {}

    def feed(self, line: bytes, now: float) -> None:
        """Read one line that arrived at `now` (`time.perf_counter`); a line that is no event's data is skipped.

        Raises:
            RuntimeError: the router ended the stream with an error.
        """
        if not line.startswith(b"data: {"):
            return
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise RuntimeError(f"the router ended the stream: {event['error']}")
        index = event.get("index", 0)
        self._first.setdefault(index, now)
        self._meta[index] = event["meta_info"]

    def answers(self) -> list[Answer]:
        """Return the answers in the order of their indices."""
        meta = self._meta
        return [Answer(meta[i]["prompt_tokens"] - meta[i]["cached_tokens"], self._first[i]) for i in sorted(meta)]


def summary(began: float, answers: Sequence[Answer]) -> dict[str, float]:
    """Return the values of one run: prompt tokens computed, and the first and last answer's TTFT in ms.

    Args:
        began: when the request was sent (`time.perf_counter`).
        answers: at least one.
    """
    return {
        "computed_tokens": sum(answer.computed for answer in answers),
        "first_ttft_ms": round(1000 * (min(answer.first for answer in answers) - began), 2),
        "last_ttft_ms": round(1000 * (max(answer.first for answer in answers) - began), 2),
    }


def request_body(rng: random.Random, task: str, length: int, vocab: int, tokens: int) -> dict[str, Any]:
    """Return a request for one answer to a prompt that no worker has seen.

    Args:
        rng: chooses the prompt.
        task: the task to ask.
        length: tokens of the prompt.
        vocab: token ids are below this number.
        tokens: tokens of the answer.
    """
    prompt = [rng.randrange(_LEAST_ID, vocab) for _ in range(length)]
    params = {"max_new_tokens": tokens, "temperature": 1, "ignore_eos": True}
    return {"model": task, "input_ids": prompt, "sampling_params": params, "stream": True}


Way = Callable[[aiohttp.ClientSession, dict[str, Any], int], Awaitable[list[Answer]]]


def main(
    url: Annotated[str, typer.Argument(help="The router of a running deployment.")],
    task: Annotated[str, typer.Argument(help="The task to ask.")],
    lengths: Annotated[list[int], typer.Option("--length", min=1, help="Tokens of the prompt.")] = [  # noqa: B006 - typer copies it
        *(100, 300, 1000),
    ],
    answers: Annotated[list[int], typer.Option(min=2, help="Answers to each prompt.")] = [2, 8],  # noqa: B006 - typer copies it
    clients: Annotated[list[int], typer.Option(min=1, help="Clients at the same time.")] = [1, 4],  # noqa: B006 - typer copies it
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    vocab: Annotated[int, typer.Option(min=16, help="Prompts are random token ids below this number.")] = 250,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 8,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "router_shared_prompt.json",
) -> None:
    """Measure every way at every length, print medians and write the report."""
    options = {"length": lengths, "answers": answers, "clients": clients, "repetitions": [repetitions]}
    cases = list(product(lengths, answers, clients))
    runs = asyncio.run(_measure(url, task, cases, repetitions, vocab, tokens))
    given = " ".join(f"--{name} {value}" for name, values in options.items() for value in values)
    command = f"python -m sun_sglang.bench.router.shared_prompt URL {task} {given}"
    report = new_report("router_shared_prompt", command, runs, UNITS, settings={"vocab": vocab, "tokens": tokens})
    write_report(report, out)
    Console().print(median_table(report))


async def _measure(
    url: str, task: str, cases: list[tuple[int, int, int]], repetitions: int, vocab: int, tokens: int
) -> list[Run]:
    rng = random.Random()
    runs: list[Run] = []
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=300)) as client:
        # one more round before, which is not counted: connections, and the first batch of each size
        for repetition, (length, count, at_once) in product(range(-1, repetitions), cases):
            for name in sorted(WAYS, reverse=bool(repetition % 2)):
                bodies = [request_body(rng, task, length, vocab, tokens) for _ in range(at_once)]
                timed = await asyncio.gather(*(_timed(client, WAYS[name], body, count) for body in bodies))
                if repetition >= 0:
                    values = {unit: round(statistics.mean(one[unit] for one in timed), 1) for unit in UNITS}
                    case: Case = {"way": name, "answers": count, "prompt": length, "clients": at_once}
                    runs.append(Run(case=case, repetition=repetition, values=values))
    return runs


async def _timed(client: aiohttp.ClientSession, way: Way, body: dict[str, Any], count: int) -> dict[str, float]:
    began = time.perf_counter()
    return summary(began, await way(client, body, count))


async def _n(client: aiohttp.ClientSession, body: dict[str, Any], count: int) -> list[Answer]:
    return await _ask(client, body | {"sampling_params": body["sampling_params"] | {"n": count}})


async def _at_once(client: aiohttp.ClientSession, body: dict[str, Any], count: int) -> list[Answer]:
    return [answer for (answer,) in await asyncio.gather(*(_ask(client, body) for _ in range(count)))]


async def _ask(client: aiohttp.ClientSession, body: Mapping[str, Any]) -> list[Answer]:
    """Send one request for one or several answers."""
    reader = AnswerReader()
    async with client.post("/generate", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.content:
            reader.feed(line, time.perf_counter())
    return reader.answers()


WAYS: Mapping[str, Way] = {"n": _n, "at_once": _at_once}


if __name__ == "__main__":
    typer.run(main)
