"""More adapters than slots: requests go to the prefill worker whose slot holds their adapter."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.polling import wait_until
from tests.support.emulated_cluster import Cluster, emulated_cluster
from tests.support.emulator import expected, make_adapter


def cold_loads(cluster: Cluster) -> int:
    workers = [worker.adapters for worker in cluster.workers.values() if worker.adapters is not None]
    return sum(cold.loads for adapters in workers for cold in adapters.slots.cold.values())


def knows_slots(cluster: Cluster) -> bool:
    """Return whether the router's view of every slot is the worker's."""
    names = {task.adapter.name for task in cluster.router.registry.fleet.tasks.values() if task.adapter}
    return all(
        cluster.router.registry.workers[worker].resident.holds(name) == (name in running.adapters.slots.resident)
        for worker, running in cluster.workers.items()
        if running.adapters is not None
        for name in names
    )


async def test_two_tasks_that_take_turns_each_keep_a_worker_of_their_own(tmp_path: Path) -> None:
    refs = {name: make_adapter(tmp_path / name, i) for i, name in enumerate(("x", "y"))}
    pools = dict.fromkeys(refs, ("shared", "base"))
    # a worker has one slot: no canary of the base takes it any more once every path is proven
    async with emulated_cluster(pools, {"shared": 2}, adapters=refs, slots=1, load_interval=0.01) as cluster:
        before = cold_loads(cluster)
        for _ in range(8):
            for name, ref in refs.items():
                await wait_until(lambda: knows_slots(cluster))
                answer, _, _ = await cluster.ask(name, [1, 2, 3], output=3)
                assert answer == expected(cluster.workers["shared-0"], [1, 2, 3], 3, adapter=ref.revision)
        # after the canaries both may hold the same adapter
        assert cold_loads(cluster) - before <= 1
        assert {worker.adapters.slots.resident for n, worker in cluster.workers.items() if worker.adapters} == {
            (ref.name,) for ref in refs.values()
        }
