"""`RayPlace` itself: workers on several machines, workers of an earlier launcher, and machines that lack files."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sun_sglang.bench.launch.ray_cluster import TwoNodes
from sun_sglang.bench.polling import wait_until
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.places.place import Needs, RefusedError, needs_of
from sun_sglang.launch.places.ray import place as place_module
from sun_sglang.launch.places.ray.place import RayPlace
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.processes import start_ticks
from sun_sglang.topology import PlaceSettings
from tests.support.workers import decode_worker
from tests.system.launch.test_place_conformance import REPOSITORY

WITHIN_S = 60.0


@pytest.fixture
async def place(ray_nodes: TwoNodes, tmp_path: Path) -> AsyncIterator[RayPlace]:
    opened = RayPlace(tmp_path, PlaceSettings(kind="ray", room_timeout=20))
    await opened.open()
    yield opened
    await opened.close()


def sleeper(tmp_path: Path, module: str = "tests.system.launch.ray.ranks", **changes: object) -> WorkerPlan:
    plan = decode_worker(tmp_path)
    changes = {"module": module, "env": plan.env | {"PYTHONPATH": str(REPOSITORY)}, **changes}
    return plan.model_copy(update=changes)


async def text_of(path: Path) -> str:
    await wait_until(path.exists, f"{path} exists", within=WITHIN_S)
    return path.read_text()  # noqa: ASYNC240 - a line


async def test_ranks_of_a_worker_run_on_different_machines_and_end_together(place: RayPlace, tmp_path: Path) -> None:
    worker = sleeper(tmp_path, nodes=2, argv=("--nnodes", "2", "--notes", str(tmp_path)))
    running = await place.start(await place.reserve(worker.name, needs_of(worker)), worker)
    notes = [(await text_of(tmp_path / rank)).split() for rank in ("0", "1")]
    assert {host for _, host in notes} == {"127.0.0.2", "127.0.0.3"}
    assert running.address.host == notes[0][1]
    assert running.pid == int(notes[0][0])

    async def met() -> bool:
        return b"met rank 1" in b"".join([chunk async for chunk in running.logs()])

    await wait_until(met, "the ranks have met", within=WITHIN_S)
    os.kill(int(notes[1][0]), signal.SIGKILL)
    async with asyncio.timeout(WITHIN_S):
        assert await running.wait() == -signal.SIGKILL
        await running.wait_gone()
    assert [start_ticks(int(pid)) for pid, _ in notes] == [None, None]


async def test_second_launcher_adopts_workers_of_its_plan_and_ends_the_others(place: RayPlace, tmp_path: Path) -> None:
    path = {"PYTHONPATH": str(REPOSITORY)}
    same, changed, gone = (
        sleeper(
            tmp_path, name=name, argv=("--node-rank", name, "--dist-init-addr", "127.0.0.2:9", "--notes", str(tmp_path))
        )
        for name in ("1", "2", "3")
    )
    first = {
        worker.name: await place.start(await place.reserve(worker.name, needs_of(worker)), worker)
        for worker in (same, changed, gone)
    }
    for worker in first:
        await text_of(tmp_path / worker)
    later = RayPlace(tmp_path, PlaceSettings(kind="ray"))
    await later.open()
    assert await later.running_workers() == ("1", "2", "3")
    # variables of the environment follow from the machines, which come and go
    planned = same.model_copy(update={"env": path | {"OMP_NUM_THREADS": "7"}})
    adopted = await later.adopt((planned, changed.model_copy(update={"argv": (*changed.argv, "--more")})))
    assert list(adopted) == ["1"]
    assert adopted["1"].pid == first["1"].pid
    assert adopted["1"].address == first["1"].address
    assert await later.running_workers() == ("1",)
    for name in ("2", "3"):
        assert start_ticks(first[name].pid) is None
    assert (await later.reserve("1", needs_of(same))).address.url == first["1"].address.url
    await adopted["1"].send(signal.SIGKILL)
    async with asyncio.timeout(WITHIN_S):
        assert await adopted["1"].wait() == await first["1"].wait() == -signal.SIGKILL
    await later.close()


async def test_machine_without_the_model_refuses_the_worker(
    place: RayPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_module, "paths_of", lambda _worker: ("/nowhere/models/base",))
    worker = sleeper(tmp_path)
    slot = await place.reserve(worker.name, needs_of(worker))
    with pytest.raises(RefusedError, match=r"machine 127\.0\.0\.[23]: /nowhere/models/base is not there; copy it"):
        await place.start(slot, worker)


async def test_worker_without_room_names_what_it_needs_and_what_there_is(place: RayPlace, tmp_path: Path) -> None:
    small = RayPlace(tmp_path, PlaceSettings(kind="ray", room_timeout=0.1))
    with pytest.raises(LaunchError, match=r"has no room for `base-0`.*1 CPU and 2 GPU.*127\.0\.0\.2: 3 CPU and 0 GPU"):
        await small.reserve("base-0", Needs(cpus=1, gpus=2))
    with pytest.raises(UserError, match=r"no machine of the Ray cluster is alive .* labels \{'zone': 'moon'\}"):
        await RayPlace(tmp_path, PlaceSettings(kind="ray", labels={"zone": "moon"})).machines()
