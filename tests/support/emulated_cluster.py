"""Emulated workers behind a router, all in the test's process, with the counters of each worker."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.emulator.engine.decode import DecodeEngine
from sun_sglang.emulator.fault_injection import Fault
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.router.app import Router
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from tests.support.emulator import LORA, flags, url
from tests.support.modules import LIMITS

_PATIENCE_S = 60.0
# a worker of this process that gets no CPU for a while is not at fault
PATIENT = Deadlines(
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
        log: what the router logged.
    """

    def __init__(self, workers: dict[str, EmulatedWorker]) -> None:
        self.workers = workers
        self.router: Router
        self.client: aiohttp.ClientSession
        self.log: io.StringIO
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

    async def proven(self) -> None:
        """Wait until every path is proven, and the weights of every task on every worker of its pool."""
        registry = self.router.registry

        def done() -> bool:
            weights = {(task.prefill, task.weights) for task in registry.fleet.tasks.values() if task.weights}
            missing = any(True for pool, own in weights for _ in registry.weights.obstacles(pool, own))
            return not missing and not registry.unproven() and not registry.unserved()

        await wait_until(done)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's entries of one kind so far."""
        return [entry for line in self.log.getvalue().splitlines() if (entry := json.loads(line))["event"] == name]

    async def restart(self, name: str) -> None:
        """End a worker and start another one at its address, as the launcher does after a crash.

        Decode workers notice it by their heartbeats before the new one starts.
        """
        old = self.workers[name]
        await old.stop()
        for engine in (worker.engine for worker in self.workers.values()):
            if isinstance(engine, DecodeEngine):
                for _ in range(old.settings.emulation.heartbeat_failures):
                    await engine.beat()
        self.workers[name] = new = EmulatedWorker(old.settings.model_copy(update={"port": old.server.port}))
        await new.start()

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
    adapters: Mapping[str, AdapterRef] | None = None,
    slots: int | None = None,
    modules: Mapping[str, ModuleRef] | None = None,
    costs: Path | None = None,
    faults: Mapping[str, Fault] | None = None,
    deadlines: Deadlines = PATIENT,
    wait: bool = True,
    **router: Any,
) -> AsyncIterator[Cluster]:
    """Start the workers of some tasks and a router, wait until all is proven, and stop them.

    Args:
        tasks: the prefill and the decode pool of each task. The model of a pool has the pool's name.
        replicas: workers of a pool; 1 where it is not named.
        decode_kv: tokens of KV that a decode worker holds.
        max_tokens: the cap of each task on its work in flight.
        adapters: the LoRA adapters of tasks. Prefill workers accept adapters if there are any.
        slots: slots of a prefill worker for adapters and for requests without one; None for SGLang's default.
        modules: the modules of tasks. Prefill workers take modules if there are any.
        costs: file of the workers' costs; None for no time at all.
        faults: faults of workers, active from the start.
        deadlines: limits and pauses of the router.
        wait: wait until every path and the weights of every task are proven.
        router: settings of the router.
    """
    roles = {p: "prefill" for p, _ in tasks.values()} | {d: "decode" for _, d in tasks.values()}
    workers: dict[str, EmulatedWorker] = {}
    for pool, role in roles.items():
        for number in range((replicas or {}).get(pool, 1)):
            kv = {"max_total_tokens": decode_kv} if role == "decode" else {}
            lora = LORA if role == "prefill" and adapters is not None else ()
            lora += ("--max-loras-per-batch", str(slots)) if lora and slots is not None else ()
            timed = {"costs": str(costs)} if costs is not None else {}
            settings = parse_settings(flags(role, pool, *lora, **kv, **timed))
            limits = LIMITS if role == "prefill" and modules is not None else None
            workers[f"{pool}-{number}"] = EmulatedWorker(settings.model_copy(update={"modules": limits}))
    for name, fault in (faults or {}).items():
        workers[name].faults.set(fault)
    cluster, log = Cluster(workers), io.StringIO()
    try:
        for worker in workers.values():
            await worker.start()
        fleet = Fleet.model_validate(
            {
                "tasks": {
                    n: {
                        "prefill": p,
                        "decode": d,
                        "max_tokens": max_tokens,
                        "adapter": (adapters or {}).get(n),
                        "module": (modules or {}).get(n),
                    }
                    for n, (p, d) in tasks.items()
                },
                "pools": {pool: {"role": role, "model": pool} for pool, role in roles.items()},
                "workers": [{"name": n, "pool": n.rsplit("-", 1)[0], "url": url(w)} for n, w in workers.items()],
                # a test sets the load of other senders itself
                "router": {"port": 0, "probe_interval": 0.05, "load_interval": 0, **router},
            }
        )
        cluster.log = log
        cluster.router = await Router.start(fleet, Log(log), deadlines=deadlines)
        try:
            if wait:
                await cluster.proven()
            timeout = aiohttp.ClientTimeout(total=2 * _PATIENCE_S)
            async with aiohttp.ClientSession(base_url=cluster.router.url, timeout=timeout) as cluster.client:
                if wait:
                    await cluster.quiet()
                cluster.mark()
                yield cluster
        finally:
            await cluster.router.stop(0.0)
    finally:
        for worker in cluster.workers.values():
            await worker.stop()
