from __future__ import annotations

from random import Random

import aiohttp
import pytest

from sun_sglang.bench.shared_context import measure, table
from sun_sglang.errors import UserError
from tests.support.emulated_cluster import emulated_cluster

AGENTS = ("planner", "coder", "reviewer")
CONTEXT, UNIQUE = 320, 32


@pytest.mark.parametrize(
    ("prefill", "computed"),
    [
        (dict.fromkeys(AGENTS, "base"), [352, 384, 416]),
        ({agent: f"{agent}-prefill" for agent in AGENTS}, [352, 704, 1056]),
    ],
    ids=["shared", "isolated"],
)
async def test_shared_context_is_computed_once_for_each_prefill_pool(
    prefill: dict[str, str], computed: list[int]
) -> None:
    tasks = {agent: (pool, agent) for agent, pool in prefill.items()}
    async with emulated_cluster(tasks, {"base": 2}, policy={"prefill": "cache_affinity"}) as cluster:
        runs = await measure(cluster.client, "t", prefill, CONTEXT, UNIQUE, Random(0))
    assert [run.values["computed"] for run in runs] == computed == [run.values["formula"] for run in runs]
    for count, run in enumerate(runs, start=1):
        assert run.case == {"topology": "t", "tasks": count}
        # each task's own tokens, and no more of the context
        assert run.values["computed_again"] == count * UNIQUE
        assert run.values["prefill_hits"] == run.values["decode_hits"] == count * (CONTEXT + UNIQUE)
    assert table(runs).row_count == len(AGENTS)


async def test_shared_context_of_a_task_that_is_not_served_is_an_error() -> None:
    async with emulated_cluster({"planner": ("base", "planner")}) as cluster:
        assert isinstance(cluster.client, aiohttp.ClientSession)
        with pytest.raises(UserError, match="coder: "):
            await measure(cluster.client, "t", {"coder": "base"}, CONTEXT, UNIQUE, Random(0))
