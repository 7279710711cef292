"""Looks at a running deployment from outside: waits for a state, reads metrics, worker loads and the tasks page."""

from __future__ import annotations

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from sun_sglang.bench.gpu_check.deployment import unfinished_work
from sun_sglang.bench.polling import wait_until
from sun_sglang.launch.state import Phase
from tests.engine.conftest import Deployment

# Seconds within which an awaited state must be observed, on a busy machine too. Every deadline of the router is longer
# in these tests, so that none of them can end a wait in place of what a test waits for.
SOON = 30.0


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """Return the sum of a router metric's samples that carry these labels."""
    page = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def in_flight(client: httpx.AsyncClient) -> float:
    """Return the requests and legs that a router has under way."""
    return await metric(client, "sun_in_flight") + await metric(client, "sun_leg_in_flight")


async def loads(client: httpx.AsyncClient, url: str) -> dict[str, int]:
    """Return those figures of a worker's `/v1/loads` that are 0 when it has nothing to do."""
    return unfinished_work((await client.get(f"{url}/v1/loads")).json()["loads"][0])


async def transfers_reach(client: httpx.AsyncClient, deployment: Deployment, worker: str, count: int) -> None:
    """Wait until a decode worker has room for so many requests whose KV it awaits.

    While their prefill workers are frozen, none of them can begin: they begin together.
    """

    async def awaited() -> bool:
        return (await loads(client, deployment.process(worker).url))["decode_transfer_queue_reqs"] >= count

    await wait_until(awaited, within=SOON)


async def tasks(client: httpx.AsyncClient) -> dict[str, Any]:
    """Return the router's report of its tasks."""
    return dict((await client.get("/tasks")).json()["tasks"])


async def is_whole(client: httpx.AsyncClient, deployment: Deployment | None = None) -> bool:
    """Return whether every path of every task is proven and, in a deployment, every process runs."""
    for task in (await tasks(client)).values():
        members = [task[role]["workers"] for role in ("prefill", "decode")]
        if len(task["paths"]) != len(members[0]) * len(members[1]):
            return False
    return deployment is None or all(p.phase == Phase.RUNNING for p in deployment.state.processes)
