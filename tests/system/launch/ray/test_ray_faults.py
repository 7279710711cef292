"""A deployment on Ray that loses a worker, an actor and a machine in turn."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import yaml

from sun_sglang.bench.launch.ray_cluster import TwoNodes, add_node, kill_raylet
from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.launch.deployment import Prepared, prepare, supervise
from sun_sglang.launch.places.ray.record import read_record
from sun_sglang.launch.state import DeploymentState, Phase, ProcessState
from sun_sglang.launch.supervision.readiness import Limits
from sun_sglang.processes import group_of, start_ticks
from tests.system.launch.test_lost_machine import TOPOLOGY
from tests.system.launch.test_place_conformance import REPOSITORY, WITH_A_CHILD

WITHIN_S = 120.0


class Launched:
    """A deployment that runs in this process, and what it has reported."""

    def __init__(self, prepared: Prepared) -> None:
        self._seen: list[tuple[DeploymentState, TasksReport | None]] = []
        self._news = asyncio.Event()
        self.supervisor = supervise(prepared, self._changed, Limits(ready_timeout=WITHIN_S))
        self.running = asyncio.create_task(self.supervisor.run())

    def _changed(self, state: DeploymentState, report: TasksReport | None) -> None:
        self._seen.append((state, report))
        self._news.set()

    async def until_ready(self, **restarts: int) -> dict[str, ProcessState]:
        """Wait until the router serves all workers at their present addresses, and return them.

        Args:
            restarts: how often a worker was restarted at least, by its pool.
        """
        async with asyncio.timeout(WITHIN_S):
            while True:
                state, report = self._seen[-1] if self._seen else (None, None)
                if state and report and report.all_ready and state.phase == Phase.READY:
                    workers = {process.pool: process for process in state.processes if process.pool}
                    if all(
                        workers[pool].restarts >= count and workers[pool].phase == Phase.RUNNING
                        for pool, count in restarts.items()
                    ) and all(worker.url == report.workers[worker.name].url for worker in workers.values()):
                        return workers
                await self._next()

    async def until_detail(self, pool: str, part: str) -> None:
        """Wait until a worker's state has a sentence."""
        async with asyncio.timeout(WITHIN_S):
            while not any(p.pool == pool and part in p.detail for s, _ in self._seen for p in s.processes):
                await self._next()

    async def stop(self) -> None:
        self.supervisor.stop()
        await self.running

    async def _next(self) -> None:
        self._news.clear()
        news = asyncio.create_task(self._news.wait())
        done, _ = await asyncio.wait((news, self.running), return_when=asyncio.FIRST_COMPLETED)
        if self.running in done:
            self.running.result()
            raise AssertionError("the deployment has ended")


async def launched(tmp_path: Path, **place: object) -> Launched:
    """Launch two emulated workers on Ray; each has a child, as SGLang's workers have."""
    (tmp_path / "sitecustomize.py").write_text(WITH_A_CHILD + "os.write(2, b'a start\\n')\n")
    file = tmp_path / "sun.yaml"
    file.write_text(yaml.safe_dump({**TOPOLOGY, "place": {"kind": "ray", **place}}))
    prepared = await prepare(file, tmp_path / "run")
    path = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(REPOSITORY)))}
    workers = tuple(
        worker.model_copy(update={"env": worker.env | path | {"TEST_CHILD_NOTE": str(tmp_path / worker.name)}})
        for worker in prepared.plan.workers
    )
    return Launched(prepared._replace(plan=prepared.plan.model_copy(update={"workers": workers})))


def parent_of(pid: int) -> int:
    parent = psutil.Process(pid).parent()
    assert parent is not None
    return parent.pid


async def ended(group: int) -> None:
    async def is_empty() -> bool:
        return not members(group)

    await wait_until(is_empty, "no process of the group is left", within=WITHIN_S)


def members(group: int) -> list[int]:
    """Return the processes of a group, of any session, that have not ended."""
    groups = ((pid, group_of(pid)) for pid in psutil.pids())
    return [pid for pid, found in groups if found is not None and found[0] == group]


def placement_groups(namespace: str) -> list[str]:
    from ray.util.placement_group import placement_group_table

    table = placement_group_table().values()
    return [entry["state"] for entry in table if entry["name"].startswith(namespace) and entry["state"] != "REMOVED"]


def actors(namespace: str) -> list[str]:
    import ray

    return [a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == namespace]


async def test_killed_worker_restarts_at_its_address_and_killed_actor_moves_it(
    ray_nodes: TwoNodes, tmp_path: Path
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    deployment = await launched(tmp_path)
    first = await deployment.until_ready()
    assert signal.getsignal(signal.SIGTERM) == handler, "Ray would end the launcher without a drain"
    assert {worker.url.rpartition(":")[0] for worker in first.values()} <= {"http://127.0.0.2", "http://127.0.0.3"}
    record = read_record(tmp_path / "run")
    assert record is not None
    assert len(actors(record.namespace)) == 2

    os.kill(first["base"].pid, signal.SIGKILL)
    second = await deployment.until_ready(base=1)
    assert second["base"].url == first["base"].url
    assert second["math"] == first["math"]
    await ended(first["base"].pid)

    assert len(members(second["base"].pid)) == 2, "the worker has a child"
    os.kill(parent_of(second["base"].pid), signal.SIGKILL)
    third = await deployment.until_ready(base=2)
    assert third["base"].url != second["base"].url
    assert third["math"] == first["math"]
    await ended(second["base"].pid)
    assert "Ray has lost the actor of `base-0`" in third["base"].detail
    assert len(placement_groups(record.namespace)) == 2

    await deployment.stop()
    for worker in third.values():
        assert start_ticks(worker.pid) is None
        await ended(worker.pid)
    assert actors(record.namespace) == placement_groups(record.namespace) == []
    assert read_record(tmp_path / "run") is None
    copied = (tmp_path / "run" / "logs" / "base-0.log").read_text()
    assert copied.count("a start") == 3, "the output of each start is on the launcher's machine"


async def test_workers_of_a_lost_machine_return_on_another_one_once_there_is_room(
    ray_nodes: TwoNodes, tmp_path: Path
) -> None:
    lost = add_node(ray_nodes.cluster, "127.0.0.4", 2, {"room": "spare"})
    deployment = await launched(tmp_path, labels={"room": "spare"}, room_timeout=2)
    before = await deployment.until_ready()
    assert {worker.url.rpartition(":")[0] for worker in before.values()} == {"http://127.0.0.4"}
    kill_raylet(lost)
    for pool, worker in before.items():
        await deployment.until_detail(pool, "the Ray cluster has no room")
        await ended(worker.pid)
    spare = add_node(ray_nodes.cluster, "127.0.0.5", 2, {"room": "spare"})
    after = await deployment.until_ready(base=1, math=1)
    assert {worker.url.rpartition(":")[0] for worker in after.values()} == {"http://127.0.0.5"}
    await deployment.stop()
    for worker in after.values():
        await ended(worker.pid)
    ray_nodes.cluster.remove_node(lost)
    ray_nodes.cluster.remove_node(spare)
