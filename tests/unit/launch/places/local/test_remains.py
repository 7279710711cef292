"""What an ended worker leaves behind is gone before its next start, or the next start tells what is not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.local import remains
from sun_sglang.launch.places.local.remains import GpuMemory, end_group, group_members
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.processes import start_ticks


async def family(child: str, note: Path) -> tuple[int, int]:
    """Start a process group whose leader ends at once.

    Args:
        child: the command that it leaves.
        note: a file in which the leader writes that command's process id.

    Returns:
        the group, and the process that is left of it.
    """
    leader = await asyncio.create_subprocess_shell(f"{child} & echo $! > {note}", process_group=0)
    await leader.wait()
    return leader.pid, int(await asyncio.to_thread(note.read_text))


async def test_group_that_outlives_its_leader_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains, "_GRACE_S", 0.0)
    group, child = await family("sleep 600", tmp_path / "pid")
    assert child in group_members(group)
    await end_group(group)
    assert start_ticks(child) is None
    assert group_members(group) == []


async def test_group_that_ends_by_itself_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiprocessing's resource tracker removes shared memory after all others have ended."""
    monkeypatch.setattr(remains, "_GRACE_S", 600.0)
    go = tmp_path / "go"
    os.mkfifo(go)
    group, _ = await family(f"(read line < {go}; touch {tmp_path}/cleaned)", tmp_path / "pid")
    ending = asyncio.create_task(end_group(group))
    await asyncio.to_thread(go.write_text, "go\n")
    async with asyncio.timeout(60):
        await ending
    assert (tmp_path / "cleaned").exists()


async def test_process_that_no_signal_ends_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains, "_GRACE_S", 0.0)
    monkeypatch.setattr(remains, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(remains, "group_members", lambda _: [4_000_001])
    with pytest.raises(LaunchError, match=r"processes \[4000001\] of the last start did not end within 0 s of SIGKILL"):
        await end_group(7)


async def test_group_of_another_session_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its leader's pid may have come back as somebody else's."""
    other = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    assert group_members(other.pid) == []
    other.send_signal(signal.SIGKILL)
    await other.wait()


# --- GPU memory -----------------------------------------------------------------------------------------------------


class Driver:
    """Tells the memory in use: the same at first, then one reading after the other, the last one for ever."""

    def __init__(self, before: Mapping[int, int], *after: Mapping[int, int]) -> None:
        self.readings = [before, *after]
        self.asked = 0

    def __call__(self) -> Mapping[int, int]:
        self.asked += 1
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains, "_LOOK_AT_GPU_S", 0.0)


def on(worker: WorkerPlan, *gpus: int, name: str = "base-0") -> WorkerPlan:
    return worker.model_copy(update={"name": name, "gpus": gpus})


async def test_restart_waits_until_the_gpus_of_a_worker_are_free(worker: WorkerPlan) -> None:
    mine = on(worker, 0, 1)
    driver = Driver({0: 4, 1: 700, 2: 9}, {0: 70_000, 1: 700}, {0: 4, 1: 60_000}, {0: 100, 1: 800})
    memory = GpuMemory([mine, on(worker, 2, name="math-0")], driver)
    await memory.open()
    assert await memory.wait(mine) == ""
    assert driver.asked == 4


async def test_gpu_that_is_not_free_in_time_is_told(worker: WorkerPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains, "_PATIENCE_S", 0.0)
    memory = GpuMemory([on(worker, 0)], Driver({0: 4}, {0: 70_000}))
    await memory.open()
    note = await memory.wait(on(worker, 0))
    assert note.startswith("GPU 0 has 70000 MiB in use (4 before the start) 0 s after the end of `base-0`, which")


async def test_gpu_that_workers_share_is_free_when_its_use_stops_falling(worker: WorkerPlan) -> None:
    mine = on(worker, 0)
    driver = Driver({0: 4}, {0: 70_000}, {0: 50_000}, {0: 40_000}, {0: 40_100})
    memory = GpuMemory([mine, on(worker, 0, name="math-0")], driver)
    await memory.open()
    assert await memory.wait(mine) == ""
    assert driver.asked == 5


async def test_gpu_without_a_reading_is_not_waited_for(worker: WorkerPlan) -> None:
    """A MIG device, or a driver that has stopped answering."""
    mig, lost = on(worker, 8, name="mig-0"), on(worker, 0)
    driver = Driver({0: 4}, {})
    memory = GpuMemory([mig, lost], driver)
    await memory.open()
    assert await memory.wait(mig) == ""
    assert await memory.wait(lost) == ""
    assert driver.asked == 2


async def test_deployment_without_gpus_asks_no_driver(worker: WorkerPlan) -> None:
    driver = Driver({})
    memory = GpuMemory([worker], driver)
    await memory.open()
    assert await memory.wait(worker) == ""
    assert driver.asked == 0
