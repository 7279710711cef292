"""Hundreds of tasks that are adapters, on two prefill and two decode workers."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.emulated_cluster import emulated_cluster
from tests.support.emulator import expected, make_adapter

COUNT = 400


async def test_four_hundred_tasks_are_ready_on_every_path_and_have_answers_of_their_own(tmp_path: Path) -> None:
    refs = {f"t{i:03}": make_adapter(tmp_path / str(i), i) for i in range(COUNT)}
    pools = dict.fromkeys(refs, ("shared", "base"))
    async with emulated_cluster(pools, {"shared": 2, "base": 2}, adapters=refs) as cluster:
        async with cluster.client.get("/tasks") as reply:
            size = len(await reply.read())
            report = await reply.json()
        assert report["ready"]
        assert {len(task["paths"]) for task in report["tasks"].values()} == {4}
        assert len({task["namespace"] for task in report["tasks"].values()}) == COUNT
        # paths are proven for each pair of workers, and adapters for each prefill worker
        assert len(cluster.events("path_proven")) == 4
        assert len(cluster.events("adapter_proven")) == 2 * COUNT
        assert size < 2000 * COUNT, "each task lists its own workers and paths, and nothing of other tasks"
        prompt = [3, 1, 4]
        for name in random.Random(0).sample(sorted(refs), 20):
            answer, _, _ = await cluster.ask(name, prompt, output=4)
            assert answer == expected(cluster.workers["shared-0"], prompt, 4, adapter=refs[name].revision)
        for worker in ("shared-0", "shared-1"):
            adapters = cluster.workers[worker].adapters
            assert adapters is not None
            assert set(adapters.loaded) == {ref.name for ref in refs.values()}
