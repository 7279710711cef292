"""When workers may be forked, and what happens when they may not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from sun_sglang.errors import PatchError
from sun_sglang.launch import starters
from sun_sglang.launch.nursery import require_no_device
from sun_sglang.launch.plan import WorkerPlan
from sun_sglang.launch.processes import free_ports
from sun_sglang.launch.starters import ForkOrPlainStarter, Running, UnfitError, worker_environment
from sun_sglang.patches.fork_schedulers import FORK_VARIABLE, unneeded


class Unfit:
    """A nursery on a machine where importing SGLang already made a CUDA context."""

    def __init__(self, _log: Path) -> None:
        self.closed = 0

    async def open(self) -> None: ...

    async def start(self, _worker: WorkerPlan) -> Running:
        raise UnfitError("CUDA was initialised before the fork")

    async def close(self) -> None:
        self.closed += 1


class Plain:
    def __init__(self) -> None:
        self.started: list[str] = []

    async def open(self) -> None: ...

    async def start(self, worker: WorkerPlan) -> Running:
        async def ended() -> int:
            return 0

        self.started.append(worker.name)
        return Running(os.getpid(), ended())

    async def close(self) -> None: ...


async def test_an_unfit_nursery_gives_way_to_plain_starts_and_says_so_once(
    worker: WorkerPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starters, "ForkStarter", Unfit)
    monkeypatch.setattr(starters, "PlainStarter", Plain)
    warnings: list[str] = []
    starter = ForkOrPlainStarter(tmp_path / "nursery.log", warnings.append)
    await starter.open()
    for _ in range(2):
        assert await (await starter.start(worker)).wait() == 0
    await starter.close()
    assert warnings == [
        "Workers are started one by one instead of forked: CUDA was initialised before the fork.",
    ]


def test_a_thread_forbids_a_fork() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="loader")
    thread.start()
    try:
        with pytest.raises(PatchError, match=r"threads .*'loader'\] run before the fork; use `--start plain`"):
            require_no_device()
    finally:
        done.set()
        thread.join()


def test_a_cuda_context_forbids_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(PatchError, match="CUDA was initialised before the fork"):
        require_no_device()


def test_only_a_nurserys_child_forks_its_schedulers() -> None:
    assert unneeded({FORK_VARIABLE: "1"}) is None
    assert unneeded({}) == "this process was not forked"


def test_no_port_is_given_twice() -> None:
    ports = free_ports()
    given = [next(ports) for _ in range(50)]
    assert len(set(given)) == 50


def test_workers_do_not_inherit_the_routers_keys() -> None:
    assert worker_environment({"SUN_API_KEYS": "secret", "HOME": "/root"}) == {"HOME": "/root"}
