"""Requests that go on while a test changes tasks, each checked against the adapters that its task may have then."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import aiohttp

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.adapter import NAME_PREFIX, AdapterRef
from sun_sglang.emulator.worker import EmulatedWorker
from tests.support.emulator import expected

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
        adapters: the adapter of each task.

    Attributes:
        answered: number of answers, each with the tokens of an adapter that its task may have.
    """

    def __init__(self, cluster: Served, adapters: Mapping[str, AdapterRef]) -> None:
        self.answered = 0
        self._cluster = cluster
        self._allowed = {task: {ref.revision} for task, ref in adapters.items()}
        self._in_flight: Counter[str] = Counter()
        self._rng = random.Random(0)
        self._weights = next(w for w in cluster.workers.values() if w.card.role == "prefill")

    def allow(self, task: str, ref: AdapterRef) -> None:
        """Accept answers of another adapter too, since a change of the task is under way."""
        self._allowed[task].add(ref.revision)

    def require(self, task: str, ref: AdapterRef) -> None:
        """Accept answers of one adapter alone, of requests that are sent from now on."""
        self._allowed[task] = {ref.revision}

    def begin(self, task: str, ref: AdapterRef) -> None:
        """Send requests to another task, too."""
        self._allowed[task] = {ref.revision}

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
                tokens, name = (await reply.json())["output_ids"], reply.headers["X-Sun-Adapter"]
            # what was allowed when it was sent, or became allowed meanwhile
            revisions = allowed | self._allowed.get(task, set())
            revision = name.removeprefix(NAME_PREFIX)
            assert revision in revisions, task
            assert tokens == expected(self._weights, prompt, LENGTH, adapter=revision), task
            self.answered += 1
            self._in_flight[task] -= 1


@asynccontextmanager
async def traffic(cluster: Served, adapters: Mapping[str, AdapterRef]) -> AsyncIterator[Traffic]:
    """Send requests to tasks until the block ends; raise if one of them was lost or had the wrong adapter."""
    running = Traffic(cluster, adapters)
    async with asyncio.TaskGroup() as group:
        clients = group.create_task(running.run())
        await running.more(2 * _CLIENTS)
        yield running
        await running.more(2 * _CLIENTS)
        clients.cancel()
