"""When workers may be forked, and what happens when they may not."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest
import torch

from sun_sglang.errors import PatchError, UserError
from sun_sglang.launch.places.command import Command, command_at, inherited_environment
from sun_sglang.launch.places.local import fork_start, start_methods
from sun_sglang.launch.places.local.child import Child
from sun_sglang.launch.places.local.fork_server import require_no_device
from sun_sglang.launch.places.local.fork_start import ForkStart, ForkUnsafeError
from sun_sglang.launch.places.local.ports import free_ports
from sun_sglang.launch.places.local.start_methods import ForkOrPlainStart, StartMethodName, choose_start
from sun_sglang.launch.places.place import Address
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.patches.processes import fork_schedulers
from sun_sglang.patches.processes.fork_schedulers import FORK_VARIABLE, choose_fork, choose_spawn, inactive_reason


@pytest.fixture
def command(worker: WorkerPlan) -> Command:
    return command_at(worker, Address(host="127.0.0.1", port=1))


class Unsafe:
    """A fork server on a machine where importing SGLang already made a CUDA context."""

    def __init__(self, _log: Path) -> None:
        self.closed = 0

    async def open(self) -> None: ...

    async def start(self, _command: Command) -> Child:
        raise ForkUnsafeError("CUDA was initialised before the fork")

    async def close(self) -> None:
        self.closed += 1


class Plain:
    def __init__(self) -> None:
        self.started: list[str] = []

    async def open(self) -> None: ...

    async def start(self, command: Command) -> Child:
        async def ended() -> int:
            return 0

        self.started.append(command.name)
        return Child(os.getpid(), ended())

    async def close(self) -> None: ...


async def test_an_unsafe_fork_server_gives_way_to_plain_starts_and_says_so_once(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_methods, "ForkStart", Unsafe)
    monkeypatch.setattr(start_methods, "PlainStart", Plain)
    warnings: list[str] = []
    method = ForkOrPlainStart(tmp_path / "fork-server.log", warnings.append)
    await method.open()
    for _ in range(2):
        assert await (await method.start(command)).wait() == 0
    await method.close()
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


def test_only_a_fork_servers_child_forks_its_schedulers() -> None:
    assert inactive_reason({FORK_VARIABLE: "1"}) is None
    assert inactive_reason({}) == "this process was not forked"


@pytest.mark.parametrize(
    ("on_gpu", "asked", "method"),
    [
        (None, None, "fork"),
        (None, "plain", "plain"),
        (None, "fork", "fork"),
        ("math-0", None, "plain"),
        ("math-0", "plain", "plain"),
    ],
)
def test_workers_on_gpus_are_started_plainly_and_others_forked_unless_asked(
    on_gpu: str | None, asked: StartMethodName | None, method: StartMethodName
) -> None:
    assert choose_start(on_gpu, asked) == method


def test_fork_of_a_worker_on_a_gpu_is_one_clear_error() -> None:
    with pytest.raises(UserError, match=r"--start fork: `math-0` runs on a GPU, .*; leave `--start` out"):
        choose_start("math-0", "fork")


@pytest.fixture
def telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a fork server that must not fork, and reports the GPUs that are visible to it."""
    script = tmp_path / "fork-server"
    event = '{\\"kind\\":\\"unsafe\\",\\"detail\\":\\"it sees [$CUDA_VISIBLE_DEVICES]\\"}'
    script.write_text(f'#!/bin/bash\necho "{event}" >&$3\n')
    script.chmod(0o700)
    monkeypatch.setattr(fork_start.sys, "executable", str(script))


async def test_fork_server_sees_no_gpu(
    telling: None, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    method = ForkStart(tmp_path / "fork-server.log")
    await method.open()
    with pytest.raises(ForkUnsafeError, match=r"it sees \[\]"):
        await method.start(command)
    await method.close()


def test_controller_of_a_forked_worker_spawns_its_schedulers(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(fork_schedulers, "require_forkable", lambda: None)
    monkeypatch.setattr(multiprocessing, "set_start_method", lambda method, force: chosen.append(method))
    choose_fork()
    choose_spawn()
    assert chosen == ["fork", "spawn"]


def test_no_port_is_given_twice() -> None:
    ports = free_ports()
    given = [next(ports) for _ in range(50)]
    assert len(set(given)) == 50


def test_workers_do_not_inherit_the_routers_keys() -> None:
    assert inherited_environment({"SUN_API_KEYS": "secret", "HOME": "/root"}) == {"HOME": "/root"}
