"""Tasks with modules that are added, updated and removed under traffic: all workers or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sun_sglang.bench.polling import wait_until
from sun_sglang.emulator.fault_injection import Fault
from tests.support.emulated_cluster import PATIENT, Cluster, emulated_cluster
from tests.support.modules import make_module
from tests.support.traffic import traffic

PAIR = {"prefill": "shared", "decode": "base"}
WORKERS = ("shared-0", "shared-1")
QUICK = replace(PATIENT, weights_unload_pause=0.05)


async def change(cluster: Cluster, method: str, path: str, **body: Any) -> tuple[int, Any]:
    async with cluster.client.request(method, path, json=body or None) as reply:
        return reply.status, await reply.json()


def given(cluster: Cluster, revision: str) -> list[bool]:
    registries = [cluster.workers[name].modules for name in WORKERS]
    return [modules is not None and modules.has(revision) for modules in registries]


async def test_tasks_with_modules_change_under_traffic_without_a_lost_or_wrong_answer(tmp_path: Path) -> None:
    refs = {name: make_module(tmp_path / name, i) for i, name in enumerate(("x", "y"))}
    new, added = make_module(tmp_path / "new", 8), make_module(tmp_path / "added", 9)
    async with (
        emulated_cluster(
            dict.fromkeys(refs, ("shared", "base")), {"shared": 2}, modules=refs, deadlines=QUICK, load_interval=0.05
        ) as cluster,
        traffic(cluster, refs) as requests,
    ):
        requests.allow("y", new)
        status, said = await change(cluster, "PUT", "/tasks/y", model=new.directory)
        assert (status, said["module"]["revision"]) == (200, new.revision)
        requests.require("y", new)
        assert (await change(cluster, "POST", "/tasks", name="z", model=added.directory, **PAIR))[0] == 201
        requests.begin("z", added)
        await requests.more(20)
        await requests.end("x")
        assert (await change(cluster, "DELETE", "/tasks/x"))[0] == 200
        await wait_until(lambda: not any(given(cluster, refs[name].revision)[i] for name in refs for i in range(2)))
        assert given(cluster, new.revision) == given(cluster, added.revision) == [True, True]


async def test_task_whose_module_one_worker_refuses_changes_nothing_on_any_worker(tmp_path: Path) -> None:
    refs, added = {"x": make_module(tmp_path / "x")}, make_module(tmp_path / "added", 9)
    async with (
        emulated_cluster({"x": ("shared", "base")}, {"shared": 2}, modules=refs, deadlines=QUICK) as cluster,
        traffic(cluster, refs),
    ):
        await cluster.workers["shared-1"].server.inject(Fault(kind="fail_load"))
        status, said = await change(cluster, "POST", "/tasks", name="z", model=added.directory, **PAIR)
        assert (status, said["error"]["code"]) == (409, "task_refused")
        assert said["error"]["message"] == "worker `shared-1` did not take the module: made to fail"
        assert given(cluster, added.revision) == [False, False]
        async with cluster.client.get("/tasks") as reply:
            assert set((await reply.json())["tasks"]) == {"x"}
        await cluster.workers["shared-1"].server.inject(Fault(kind="clear"))
        assert (await change(cluster, "POST", "/tasks", name="z", model=added.directory, **PAIR))[0] == 201
