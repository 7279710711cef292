"""Emulated workers behind a router, all in the test's process, with the counters of each worker."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.router.app import Router
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from tests.support.emulator import flags, url

_PATIENCE_S = 60.0
# a worker of this process that gets no CPU for a while is not at fault
_PATIENT = Deadlines(
    connect=_PATIENCE_S,
    keepalive=_PATIENCE_S,
    abort=_PATIENCE_S,
    liveness=_PATIENCE_S,
    canary=_PATIENCE_S,
    probe=_PATIENCE_S,
    linger=_PATIENCE_S,
    stall_report=_PATIENCE_S,
    shutdown=_PATIENCE_S,
)


class Cluster:
    """A router over emulated workers.

    Attributes:
        router: the router.
        client: a client of the router.
        workers: the workers by name.
    """

    def __init__(self, workers: dict[str, EmulatedWorker]) -> None:
        self.workers = workers
        self.router: Router
        self.client: aiohttp.ClientSession
        self._before: dict[str, tuple[int, int]] = {}

    async def ask(
        self, task: str, prompt: list[int], *, output: int = 2, session: str | None = None
    ) -> tuple[list[int], int, int]:
        """Send a request and wait until both of its legs have ended.

        Returns:
            The answer, and the tokens of the prompt that the prefill worker and the decode worker had in their caches.
        """
        body = {"model": task, "input_ids": prompt, "sampling_params": {"max_new_tokens": output, "ignore_eos": True}}
        headers = {"X-Sun-Session": session} if session else {}
        async with self.client.post("/generate", json=body, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
            answer = await reply.json()
        await self.quiet()
        meta = answer["meta_info"]
        return answer["output_ids"], meta["cached_tokens"], (meta["cached_tokens_details"] or {}).get("decode", 0)

    async def quiet(self) -> None:
        """Wait until no worker has any load."""
        loads = [worker.load for worker in self.router.registry.workers.values()]
        await wait_until(lambda: not any(load.requests or load.tokens for load in loads))

    @property
    def prefill_load(self) -> int:
        """Prompt tokens that the router has in flight on prefill workers."""
        return sum(w.load.tokens for w in self.router.registry.workers.values() if w.role == "prefill")

    def mark(self) -> None:
        """Count from now on: the router's first requests have been through the workers, too."""
        self._before = {name: self._counters(name) for name in self.workers}

    def computed(self, name: str) -> int:
        """Return the prompt tokens that a prefill worker has computed since the mark."""
        return self._counters(name)[0] - self._before[name][0]

    def held(self, name: str) -> int:
        """Return by how many tokens the cache of a worker has grown since the mark."""
        return self._counters(name)[1] - self._before[name][1]

    def prefilled_by(self) -> set[str]:
        """Return the prefill workers that have computed anything since the mark."""
        return {name for name, worker in self.workers.items() if worker.card.role == "prefill" and self.computed(name)}

    def _counters(self, name: str) -> tuple[int, int]:
        engine = self.workers[name].engine
        return engine.total_tokens, engine.cache.tokens


@asynccontextmanager
async def emulated_cluster(
    tasks: Mapping[str, tuple[str, str]],
    replicas: Mapping[str, int] | None = None,
    *,
    decode_kv: int | None = None,
    max_tokens: int | None = None,
    **router: Any,
) -> AsyncIterator[Cluster]:
    """Start the workers of some tasks and a router, wait until every path is proven, and stop them.

    Args:
        tasks: the prefill and the decode pool of each task. The model of a pool has the pool's name.
        replicas: workers of a pool; 1 where it is not named.
        decode_kv: tokens of KV that a decode worker holds.
        max_tokens: the cap of each task on its work in flight.
        router: settings of the router.
    """
    roles = {p: "prefill" for p, _ in tasks.values()} | {d: "decode" for _, d in tasks.values()}
    workers: dict[str, EmulatedWorker] = {}
    for pool, role in roles.items():
        for number in range((replicas or {}).get(pool, 1)):
            kv = {"max_total_tokens": decode_kv} if role == "decode" else {}
            workers[f"{pool}-{number}"] = EmulatedWorker(parse_settings(flags(role, pool, **kv)))
    cluster = Cluster(workers)
    try:
        for worker in workers.values():
            await worker.start()
        fleet = Fleet.model_validate(
            {
                "tasks": {n: {"prefill": p, "decode": d, "max_tokens": max_tokens} for n, (p, d) in tasks.items()},
                "pools": {pool: {"role": role, "model": pool} for pool, role in roles.items()},
                "workers": [{"name": n, "pool": n.rsplit("-", 1)[0], "url": url(w)} for n, w in workers.items()],
                # a test sets the load of other senders itself
                "router": {"port": 0, "probe_interval": 0.05, "load_interval": 0, **router},
            }
        )
        cluster.router = await Router.start(fleet, Log(io.StringIO()), deadlines=_PATIENT)
        try:
            registry = cluster.router.registry
            await wait_until(lambda: not registry.unproven() and not registry.unserved())
            timeout = aiohttp.ClientTimeout(total=2 * _PATIENCE_S)
            async with aiohttp.ClientSession(base_url=cluster.router.url, timeout=timeout) as cluster.client:
                await cluster.quiet()
                cluster.mark()
                yield cluster
        finally:
            await cluster.router.stop(0.0)
    finally:
        for worker in workers.values():
            await worker.stop()
