"""The next start of a worker waits until the driver has freed the memory of its GPUs, or reports that it has not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sun_sglang.launch.places.local import gpu_memory
from sun_sglang.launch.places.local.gpu_memory import GpuMemory


class Driver:
    """Reports the memory in use: the same at first, then one reading after the other, the last one for ever."""

    def __init__(self, before: Mapping[int, int], *after: Mapping[int, int]) -> None:
        self.readings = [before, *after]
        self.asked = 0

    def __call__(self) -> Mapping[int, int]:
        self.asked += 1
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "_LOOK_S", 0.0)


async def test_restart_waits_until_the_gpus_of_a_worker_are_free() -> None:
    driver = Driver({0: 4, 1: 700, 2: 9}, {0: 70_000, 1: 700}, {0: 4, 1: 60_000}, {0: 100, 1: 800})
    memory = GpuMemory({"base-0": (0, 1), "math-0": (2,)}, driver)
    await memory.open()
    assert await memory.wait("base-0") == ""
    assert driver.asked == 4


async def test_gpu_that_is_not_free_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "_PATIENCE_S", 0.0)
    memory = GpuMemory({"base-0": (0,)}, Driver({0: 4}, {0: 70_000}))
    await memory.open()
    note = await memory.wait("base-0")
    assert note.startswith("GPU 0 has 70000 MiB in use (4 before the start) 0 s after the end of `base-0`, which")


async def test_gpu_that_workers_share_is_free_when_its_use_stops_falling() -> None:
    driver = Driver({0: 4}, {0: 70_000}, {0: 50_000}, {0: 40_000}, {0: 40_100})
    memory = GpuMemory({"base-0": (0,), "math-0": (0,)}, driver)
    await memory.open()
    assert await memory.wait("base-0") == ""
    assert driver.asked == 5


async def test_gpu_without_a_reading_is_not_waited_for() -> None:
    """A MIG device, or a driver that has stopped answering."""
    driver = Driver({0: 4}, {})
    memory = GpuMemory({"mig-0": (8,), "base-0": (0,)}, driver)
    await memory.open()
    assert await memory.wait("mig-0") == ""
    assert await memory.wait("base-0") == ""
    assert driver.asked == 2


async def test_deployment_without_gpus_asks_no_driver() -> None:
    driver = Driver({})
    memory = GpuMemory({"base-0": ()}, driver)
    await memory.open()
    assert await memory.wait("base-0") == ""
    assert driver.asked == 0
