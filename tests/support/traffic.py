"""Requests that go on while a test changes tasks, each checked against the weights that its task may have then."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import aiohttp

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.module import TaskWeights
from sun_sglang.emulator.worker import EmulatedWorker
from tests.support.modules import expected_of

_CLIENTS = 6
LENGTH = 4


class Served(Protocol):
    """Workers behind a router."""

    @property
    def client(self) -> aiohttp.ClientSession:
        """A client of the router."""
        ...

    @property
    def workers(self) -> Mapping[str, EmulatedWorker]:
        """The workers by name."""
        ...


class Traffic:
    """Clients that send requests one after the other.

    Args:
        cluster: the router and its workers.
        weights: the own weights of each task.

    Attributes:
        answered: number of answers, each with the tokens of weights that its task may have.
    """

    def __init__(self, cluster: Served, weights: Mapping[str, TaskWeights]) -> None:
        self.answered = 0
        self._cluster = cluster
        self._allowed = {task: {one.name: one} for task, one in weights.items()}
        self._in_flight: Counter[str] = Counter()
        self._rng = random.Random(0)
        self._worker = next(w for w in cluster.workers.values() if w.card.role == "prefill")

    def allow(self, task: str, weights: TaskWeights) -> None:
        """Accept answers of other weights too, since a change of the task is under way."""
        self._allowed[task][weights.name] = weights

    def require(self, task: str, weights: TaskWeights) -> None:
        """Accept answers of these weights alone, of requests that are sent from now on."""
        self._allowed[task] = {weights.name: weights}

    def begin(self, task: str, weights: TaskWeights) -> None:
        """Send requests to another task, too."""
        self._allowed[task] = {weights.name: weights}

    async def end(self, task: str) -> None:
        """Send no more requests to a task, and wait until those under way have been answered."""
        del self._allowed[task]
        await wait_until(lambda: not self._in_flight[task], f"no request to {task}")

    async def more(self, count: int) -> None:
        """Wait until so many more requests have been answered."""
        target = self.answered + count
        await wait_until(lambda: self.answered >= target, f"{count} more answers")

    async def run(self) -> None:
        """Send requests until cancelled; end with the first that is not answered as it should be."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(self._client())

    async def _client(self) -> None:
        while True:
            task = self._rng.choice(sorted(self._allowed))
            allowed = self._allowed[task]
            prompt = [self._rng.randrange(900) for _ in range(5)]
            limit = {"max_new_tokens": LENGTH, "ignore_eos": True}
            body = {"model": task, "input_ids": prompt, "sampling_params": limit}
            self._in_flight[task] += 1
            async with self._cluster.client.post("/generate", json=body) as reply:
                assert reply.status == 200, await reply.text()
                tokens, names = (await reply.json())["output_ids"], reply.headers
            # what was allowed when it was sent, or became allowed meanwhile
            known = allowed | self._allowed.get(task, {})
            name = names.get("X-Sun-Adapter") or names["X-Sun-Module"]
            assert name in known, task
            assert tokens == expected_of(self._worker, prompt, LENGTH, known[name]), task
            self.answered += 1
            self._in_flight[task] -= 1


@asynccontextmanager
async def traffic(cluster: Served, weights: Mapping[str, TaskWeights]) -> AsyncIterator[Traffic]:
    """Send requests to tasks until the block ends; raise if one of them was lost or had the wrong weights."""
    running = Traffic(cluster, weights)
    async with asyncio.TaskGroup() as group:
        clients = group.create_task(running.run())
        await running.more(2 * _CLIENTS)
        yield running
        await running.more(2 * _CLIENTS)
        clients.cancel()
