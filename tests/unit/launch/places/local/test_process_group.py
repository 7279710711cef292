"""The processes of a worker are signalled together, and none of them outlives its leader for long."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.local import process_group
from sun_sglang.launch.places.local.process_group import end_group, group_members, signal_group
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
    monkeypatch.setattr(process_group, "_GRACE_S", 0.0)
    group, child = await family("sleep 600", tmp_path / "pid")
    assert child in group_members(group)
    await end_group(group)
    assert start_ticks(child) is None
    assert group_members(group) == []


async def test_group_that_ends_by_itself_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiprocessing's resource tracker removes shared memory after all others have ended."""
    monkeypatch.setattr(process_group, "_GRACE_S", 600.0)
    go = tmp_path / "go"
    os.mkfifo(go)
    group, _ = await family(f"(read line < {go}; touch {tmp_path}/cleaned)", tmp_path / "pid")
    ending = asyncio.create_task(end_group(group))
    await asyncio.to_thread(go.write_text, "go\n")
    async with asyncio.timeout(60):
        await ending
    assert (tmp_path / "cleaned").exists()


async def test_process_that_no_signal_ends_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "_GRACE_S", 0.0)
    monkeypatch.setattr(process_group, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(process_group, "group_members", lambda _: [4_000_001])
    with pytest.raises(LaunchError, match=r"processes \[4000001\] of the last start did not end within 0 s of SIGKILL"):
        await end_group(7)


async def test_group_of_another_session_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may have given its leader's pid to another user's process."""
    other = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    assert group_members(other.pid) == []
    other.send_signal(signal.SIGKILL)
    await other.wait()


async def leader(script: str) -> asyncio.subprocess.Process:
    """Start a process group with a Python leader, and wait until it prints a line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, process_group=0
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    return process


PARENT = (
    "import subprocess, time; subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL); "
    "print('up', flush=True); time.sleep(600)"
)


async def test_sigterm_reaches_the_leader_alone() -> None:
    process = await leader(PARENT)
    members = group_members(process.pid)
    assert len(members) == 2
    signal_group(process.pid, signal.SIGTERM)
    assert await process.wait() == -signal.SIGTERM
    assert len(group_members(process.pid)) == 1
    signal_group(process.pid, signal.SIGKILL)
    await wait_until(lambda: group_members(process.pid) == [], "no member is left")


async def test_sigkill_reaches_the_children_of_the_leader() -> None:
    process = await leader(PARENT)
    members = group_members(process.pid)
    assert len(members) == 2
    signal_group(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    await wait_until(lambda: [start_ticks(pid) for pid in members] == [None, None], "no member is left")


async def test_sigkill_leaves_shared_memory_to_multiprocessings_tracker() -> None:
    script = (
        "import time; from multiprocessing import shared_memory as s; "
        "m = s.SharedMemory(create=True, size=64); print('up', flush=True); print(m.name, flush=True); time.sleep(600)"
    )
    process = await leader(script)
    assert process.stdout is not None
    memory = Path("/dev/shm") / (await process.stdout.readline()).decode().strip()
    assert memory.exists()
    signal_group(process.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        await process.wait()
        await end_group(process.pid)
    assert not memory.exists()


async def test_signal_to_a_group_that_has_ended_is_no_error() -> None:
    process = await asyncio.create_subprocess_exec("true", process_group=0)
    await process.wait()
    signal_group(process.pid, signal.SIGTERM)
    signal_group(process.pid, signal.SIGKILL)
