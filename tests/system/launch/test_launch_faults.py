"""Faults that must not end a deployment: of its terminal and its disk, a second launch, no room for a process."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from sun_sglang.bench.processes import run_sun, sun_command
from sun_sglang.cli.display.display_thread import DisplayThread
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import LaunchError
from sun_sglang.launch.claim import claim
from sun_sglang.launch.deployment import prepare, supervise
from sun_sglang.launch.places.command import Command, command_at
from sun_sglang.launch.places.local import fork_server, fork_start
from sun_sglang.launch.places.local import place as local_place
from sun_sglang.launch.places.local.child import Child
from sun_sglang.launch.places.local.fork_server import ForkRequest, ForkServer
from sun_sglang.launch.places.local.fork_start import ForkStart
from sun_sglang.launch.places.place import Address, RefusedError
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.launch.state import DeploymentState, Phase, read_state
from sun_sglang.launch.supervision import supervised_process, supervisor
from sun_sglang.launch.supervision.readiness import Limits
from sun_sglang.processes import start_ticks
from tests.support.waiting import wait_for

PATIENCE_S = 60.0
LIMITS = Limits(ready_timeout=PATIENCE_S)
TOPOLOGY: dict[str, Any] = {
    "pools": {"base": {"role": "decode", "model": "none/base"}, "math": {"role": "prefill", "model": "none/math"}},
    "tasks": {"math": {"prefill": "math", "decode": "base"}},
    "backend": "emulated",
    "emulated": {"vocab_size": 1000},
    "router": {"port": 0, "probe_interval": 0.1},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a topology of two emulated workers."""
    path = tmp_path / "sun.yaml"
    path.write_text(yaml.safe_dump(TOPOLOGY))
    return path


# --- the terminal ---------------------------------------------------------------------------------------------------


def full_pipe() -> tuple[int, int]:
    """Return a pipe that takes nothing more."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)
    return read, write


def closed_pipe() -> tuple[int, int]:
    """Return a pipe whose reader has closed it."""
    read, write = os.pipe()
    os.close(read)
    return os.open(os.devnull, os.O_RDONLY), write


@pytest.mark.parametrize("pipe", [full_pipe, closed_pipe])
def test_launcher_whose_output_nobody_reads_restarts_workers_and_stops(
    file: Path, pipe: Callable[[], tuple[int, int]]
) -> None:
    run_dir = file.parent / "run"
    read, write = pipe()
    command = sun_command("launch", str(file), "--run-dir", str(run_dir))
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, start_new_session=True) as launcher:
        os.close(write)
        try:
            wait_for(lambda: (s := read_state(run_dir)) is not None and s.phase == Phase.READY)
            victim = process(run_dir, "base-0")
            os.kill(victim.pid, signal.SIGKILL)
            wait_for(lambda: process(run_dir, "base-0").restarts == 1 and process(run_dir, "base-0").pid)
            family = psutil.Process(launcher.pid).children(recursive=True)
            assert len(family) >= 3
            launcher.send_signal(signal.SIGTERM)
            assert launcher.wait(PATIENCE_S) == 0
            _, left = psutil.wait_procs(family, timeout=PATIENCE_S)
            assert left == []
        finally:
            launcher.kill()
            os.close(read)
        assert launcher.stderr is not None
        assert launcher.stderr.read() == b""
    ended = read_state(run_dir)
    assert ended is not None
    assert ended.phase == Phase.STOPPED


def process(run_dir: Path, name: str) -> Any:
    state = read_state(run_dir)
    assert state is not None
    return next(p for p in state.processes if p.name == name)


def test_display_whose_write_blocks_delays_nobody_and_keeps_notes() -> None:
    shown: list[str] = []
    begun, release = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        release.wait()

    display = DisplayThread(lambda: shown.append("gone"))
    display.show(block)
    begun.wait()
    display.note(lambda: shown.append("note"))
    for number in range(100):
        display.show(lambda number=number: shown.append(str(number)))  # type: ignore[misc]  # mypy cannot infer it
    assert display.close() is False
    release.set()
    display._thread.join()
    assert shown == ["note", "99"]


def test_display_whose_reader_has_gone_says_so_once_and_ends() -> None:
    gone: list[bool] = []

    def fail() -> None:
        raise BrokenPipeError

    display = DisplayThread(lambda: gone.append(True))
    display.show(fail)
    display._thread.join()
    display.show(fail)
    assert display.close() is True
    assert gone == [True]


# --- the disk -------------------------------------------------------------------------------------------------------


async def test_state_that_cannot_be_written_ends_nothing_and_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[DeploymentState] = []
    news = asyncio.Event()

    def changed(state: DeploymentState, _report: object) -> None:
        shown.append(state)
        news.set()

    async def until(done: Callable[[DeploymentState], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not (shown and done(shown[-1])):
                news.clear()
                await news.wait()

    def full(_run_dir: Path, _state: DeploymentState) -> None:
        raise OSError(28, "No space left on device")

    prepared = await prepare(file, file.parent / "run", "plain")
    deployment = supervise(prepared, changed, LIMITS)
    running = asyncio.create_task(deployment.run())
    await until(lambda s: s.phase == Phase.READY)
    monkeypatch.setattr(supervisor, "write_state", full)
    victim = next(p for p in shown[-1].processes if p.name == "base-0")
    os.kill(victim.pid, signal.SIGKILL)
    await until(lambda s: any(p.name == "base-0" and p.restarts == 1 and p.pid for p in s.processes))
    assert "No space left on device" in shown[-1].detail
    monkeypatch.undo()
    deployment.stop()
    await running
    assert shown[-1].phase == Phase.STOPPED
    assert shown[-1].detail == ""


async def test_directory_that_cannot_be_written_is_one_clear_error(file: Path) -> None:
    occupied = file.parent / "occupied"
    occupied.write_text("")
    prepared = await prepare(file, occupied, "plain")
    with pytest.raises(LaunchError, match="occupied cannot be used: "):
        supervise(prepared, lambda *_: None, LIMITS)


# --- a worker that refuses -----------------------------------------------------------------------------------------


class Refusing:
    """A start method that refuses each worker, after it wrote the worker's log or before."""

    def __init__(self, logs: bool) -> None:
        self.logs = logs

    async def open(self) -> None: ...

    async def start(self, command: Command) -> Child:
        if self.logs:
            command.log.touch()
        raise RefusedError("patch `x` did not take")

    async def close(self) -> None: ...


@pytest.mark.parametrize("logs", [True, False])
async def test_refusal_ends_the_launch_and_names_a_log_only_where_there_is_one(
    file: Path, monkeypatch: pytest.MonkeyPatch, logs: bool
) -> None:
    prepared = await prepare(file, file.parent / "run", "plain")
    monkeypatch.setattr(local_place, "MixedStart", lambda **_: Refusing(logs))
    deployment = supervise(prepared, lambda *_: None, LIMITS)
    with pytest.raises(LaunchError, match=r"refuses to run: patch `x` did not take") as refused:
        await deployment.run()
    assert ("; log: " in str(refused.value)) is logs


# --- a worker that ends early ---------------------------------------------------------------------------------------


async def test_each_end_before_a_worker_served_is_shown_with_its_log_and_the_third_ends_the_launch(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The duration of a start does not matter: a large model fails after minutes."""
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)
    clock = itertools.count(step=120)
    monkeypatch.setattr(supervised_process, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    shown: list[DeploymentState] = []
    prepared = await prepare(file, file.parent / "run", "plain")
    monkeypatch.setattr(local_place, "MixedStart", lambda **_: Failing())
    deployment = supervise(prepared, lambda s, _: shown.append(s), LIMITS)
    with pytest.raises(
        LaunchError, match=r"`base-0` ended 3 times before it was ready \(exit 1\); .*\nout of memory, 3"
    ):
        await deployment.run()
    ends = {p.restarts: p.log_end for s in shown for p in s.processes if p.name == "base-0" and p.log_end}
    assert ends == {n: f"out of memory, {n}" for n in (1, 2, 3)}


class Failing:
    """A start method whose decode worker fails three times, and whose other workers never serve."""

    def __init__(self) -> None:
        self.starts = 0

    async def open(self) -> None: ...

    async def start(self, command: Command) -> Child:
        self.starts += command.name == "base-0"
        fails = f"echo out of memory, {self.starts} >> {command.log}; exit 1"
        shell = fails if command.name == "base-0" and self.starts <= 3 else "exec sleep 600"
        process = await asyncio.create_subprocess_shell(shell, process_group=0)
        return Child(process.pid, process.wait())

    async def close(self) -> None: ...


async def test_worker_that_served_is_started_again_without_an_early_end(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = asyncio.Event()
    back = asyncio.Event()

    def changed(state: DeploymentState, report: TasksReport | None) -> None:
        base = next(p for p in state.processes if p.name == "base-0")
        if report is not None and report.all_ready and state.phase == Phase.READY:
            ready.set()
        if base.restarts == 1 and base.phase == Phase.RUNNING:
            back.set()

    prepared = await prepare(file, file.parent / "run", "plain")
    deployment = supervise(prepared, changed, replace(LIMITS, router_steady_after=0.0))
    router = deployment._routers[0]
    router.state = router.state.model_copy(update={"log_end": "of a start before"})
    running = asyncio.create_task(deployment.run())
    async with asyncio.timeout(PATIENCE_S):
        await ready.wait()
        note_in(prepared.plan.workers[0].log)
        os.kill(next(p.pid for p in deployment.state.processes if p.name == "base-0"), signal.SIGKILL)
        await back.wait()
    assert [p.log_end for p in deployment.state.processes] == ["", "", ""]
    deployment.stop()
    await running


def note_in(log: Path) -> None:
    with log.open("a") as file:
        file.write("an answer\n")


async def test_gpu_memory_that_is_not_free_is_told_in_the_log_before_the_next_start(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "pause_before", lambda _: 0.0)
    monkeypatch.setattr(local_place, "MixedStart", lambda **_: Failing())
    monkeypatch.setattr(local_place, "GpuMemory", HeldMemory)
    prepared = await prepare(file, file.parent / "run", "plain")
    deployment = supervise(prepared, lambda *_: None, LIMITS)
    with pytest.raises(LaunchError, match="ended 3 times"):
        await deployment.run()
    log = prepared.plan.workers[0].log.read_text().splitlines()
    held = "sun launch: GPU 0 is held by base-0"
    assert log[:5] == ["out of memory, 1", held, "out of memory, 2", held, "out of memory, 3"]


class HeldMemory:
    """GPU memory that an ended worker never gives back."""

    def __init__(self, _devices: object) -> None: ...

    async def open(self) -> None: ...

    async def wait(self, worker: str) -> str:
        return f"GPU 0 is held by {worker}"


# --- a path that carries nothing ------------------------------------------------------------------------------------


async def test_canary_that_keeps_failing_in_one_way_ends_the_launch_with_its_fault(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {**TOPOLOGY, "emulated": {"vocab_size": 1000, "fault": '{"kind": "abort"}'}}
    prepared = await prepare(rewritten(file, broken), file.parent / "run", "plain")
    deployment = supervise(prepared, lambda *_: None, replace(LIMITS, same_faults=2))
    with pytest.raises(
        LaunchError, match=r"2 canaries in a row failed from `math-0` to `base-0`: .+; KV goes by `moon"
    ):
        await deployment.run()
    assert deployment.state.phase == Phase.FAILED


async def test_module_tuned_for_another_decoder_ends_the_launch_where_the_workers_alone_tell(
    file: Path, write_checkpoint: Callable[..., Path]
) -> None:
    math, base = write_checkpoint("math"), write_checkpoint("base")
    pools = {"base": {"role": "decode", "model": str(base)}, "math": {"role": "prefill", "model": str(math)}}
    topology = {**TOPOLOGY, "pools": pools, "emulated": {}, "tasks": {"sums": {"prefill": "math", "decode": "base"}}}
    prepared = await prepare(rewritten(file, topology), file.parent / "run", "plain")
    # as with a model that is only downloaded by its worker: nothing could be read before the start
    record = {"base": "b", "decoder": "other", "first_token": "prefill"}
    (math / "sun.json").write_text(json.dumps(record))
    deployment = supervise(prepared, lambda *_: None, LIMITS)
    with pytest.raises(LaunchError, match=r"refuses to pair two workers: `math-0` was tuned .* by weights other, and"):
        await deployment.run()


def rewritten(file: Path, content: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(content))
    return file


# --- one directory, one launcher ------------------------------------------------------------------------------------


def test_second_launch_in_one_directory_is_refused_and_changes_nothing(file: Path) -> None:
    """Also before the first has written its state: the moment in which both would have gone on."""
    run_dir = file.parent / "run"
    run_dir.mkdir()
    held = claim(run_dir)
    done = run_sun("launch", str(file), "--run-dir", str(run_dir), timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "another `sun launch` uses" in done.stderr
    assert [p.name for p in run_dir.iterdir()] == ["launch.lock"]
    held.close()
    claim(run_dir).close()


def test_claim_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sun_sglang.launch.claim import claim; "
        "held = claim(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LaunchError, match="another `sun launch`"):
            claim(tmp_path)
        holder.kill()
    claim(tmp_path).close()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"pid": 1}', b"[1]"])
def test_state_file_that_is_broken_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    assert read_state(tmp_path) is None
    assert read_state(tmp_path / "state.json") is None


def test_process_is_told_from_a_later_one_and_from_its_own_remains() -> None:
    own = start_ticks(os.getpid())
    assert own is not None
    with subprocess.Popen(["sleep", "600"]) as child:
        assert (start_ticks(child.pid) or 0) >= own
        child.kill()
        # dead, and not waited for: as a launcher in a container whose first process reads no exit status
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert start_ticks(child.pid) is None
    assert start_ticks(child.pid) is None


# --- no room for a process more -------------------------------------------------------------------------------------


def test_fork_server_that_cannot_fork_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(fork_server, "require_no_device", lambda: None)
    monkeypatch.setattr(os, "fork", no_room)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = ForkRequest(name="base-0", argv=(), env={}, threads=1, log=tmp_path / "log")
        ours.sendall(request.model_dump_json().encode() + b"\n")
        one = ForkServer(theirs)
        assert one._read()
        assert one._fork_all() == []
        event = json.loads(ours.recv(4096))
    assert (event["kind"], event["name"]) == ("fork_failed", "base-0")
    assert "Resource temporarily unavailable" in event["detail"]


@pytest.fixture
def barren(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a fork server that has no room for any worker."""
    script = tmp_path / "fork-server"
    script.write_text(
        "#!/bin/bash\n"
        """echo '{"kind":"ready"}' >&$3\n"""
        "while read -r line <&$3\n"
        """do echo '{"kind":"fork_failed","name":"base-0","detail":"cannot fork"}' >&$3; done\n"""
    )
    script.chmod(0o700)
    monkeypatch.setattr(fork_start.sys, "executable", str(script))


async def test_worker_that_cannot_be_forked_fails_its_start_and_the_next_one_is_tried(
    barren: None, worker: WorkerPlan, tmp_path: Path
) -> None:
    method = ForkStart(tmp_path / "fork-server.log")
    await method.open()
    for _ in range(2):
        with pytest.raises(LaunchError, match="cannot fork"):
            await method.start(command_at(worker, Address(host="127.0.0.1", port=1)))
    await method.close()
