from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.contracts.module import MODULES_VARIABLE, ModuleLimits
from tests.system.faults.cluster import Cluster, Worker

Start = Callable[..., Awaitable[Cluster]]
SUN = {"math": ("math", "base"), "tool": ("tool", "base")}


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a cluster and wait until it is ready.

    `await start({"math": 2, "tool": 1, "base": 1}, costs={"decode_step": 0.02}, router={"idle_timeout": 2})`: how many
    workers each pool has. `flags` are more flags for single workers or whole pools by name. With `modules` prefill
    workers take modules.
    """
    started: list[Cluster] = []

    async def begin(
        pools: dict[str, int],
        *,
        tasks: dict[str, tuple[str, str]] | None = None,
        costs: dict[str, float] | None = None,
        router: dict[str, Any] | None = None,
        flags: dict[str, dict[str, Any]] | None = None,
        modules: ModuleLimits | None = None,
        wait: bool = True,
        descriptors: int | None = None,
        failover: bool = True,
    ) -> Cluster:
        file = tmp_path / "costs.yaml"
        file.write_text(yaml.safe_dump(costs or {}))
        chosen = tasks or {t: p for t, p in SUN.items() if set(p) <= set(pools)}
        roles = {p: "prefill" for p, _ in chosen.values()} | {d: "decode" for _, d in chosen.values()}
        workers: dict[str, Worker] = {}
        for pool, count in pools.items():
            for i in range(count):
                name = f"{pool}-{i}"
                own = {"sim_costs": file, **(flags or {}).get(pool, {}), **(flags or {}).get(name, {})}
                takes = {MODULES_VARIABLE: modules.model_dump_json()} if modules and roles[pool] == "prefill" else {}
                workers[name] = Worker(name, roles[pool], f"none/{pool}", tmp_path, own, takes)
                workers[name].start()
        fleet = {
            "tasks": {name: {"prefill": p, "decode": d, "failover": failover} for name, (p, d) in chosen.items()},
            "pools": {name: {"role": roles[name], "model": f"none/{name}"} for name in pools},
            "workers": [{"name": n, "pool": n.rsplit("-", 1)[0], "url": w.url} for n, w in workers.items()],
            "router": {"probe_interval": 0.1, **(router or {})},
        }
        cluster = Cluster(tmp_path, fleet, workers)
        started.append(cluster)
        if wait:
            # a router that probes seldom must find them at its first probe
            await asyncio.gather(*(cluster.listens(name) for name in workers))
        cluster.start_router(descriptors)
        if wait:
            await cluster.ready()
            await cluster.read_weights()
        return cluster

    yield begin
    for cluster in started:
        await cluster.close()
