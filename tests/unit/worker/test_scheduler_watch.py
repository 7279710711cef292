"""A scheduler that a data-parallel controller started is watched like the server's own processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sun_sglang.worker.scheduler_watch import HiddenScheduler, crashed_process, skip_core_dumps, watch_schedulers


@pytest.fixture
def scheduler() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that runs until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and wait until it has ended; no process reads its status, as a controller does not."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def watchdog(*pids: int) -> Any:
    """Return SGLang's watchdog of these processes, which run."""
    processes = [SimpleNamespace(pid=pid, exitcode=None, is_alive=lambda: True) for pid in pids]
    return SimpleNamespace(_processes=processes, _names=[f"own {pid}" for pid in pids])


def test_hidden_scheduler_that_was_killed_is_named(scheduler: subprocess.Popen[bytes]) -> None:
    dog = watchdog(1)
    watch_schedulers(dog, [scheduler.pid])
    assert crashed_process(dog) is None
    kill(scheduler)
    assert crashed_process(dog) == f"scheduler of process {scheduler.pid}"
    hidden = dog._processes[-1]
    assert not hidden.is_alive()
    assert hidden.exitcode != 0, "SGLang's watchdog takes 0 for a clean end"


def test_scheduler_that_the_server_started_itself_is_not_watched_twice() -> None:
    dog = watchdog(1, 2)
    watch_schedulers(dog, [1, 2])
    assert len(dog._processes) == len(dog._names) == 2


def test_scheduler_that_is_gone_already_has_ended(scheduler: subprocess.Popen[bytes]) -> None:
    scheduler.kill()
    scheduler.wait()
    assert not HiddenScheduler(scheduler.pid).is_alive()


def test_server_without_a_watchdog_has_no_ended_process() -> None:
    watch_schedulers(None, [1])
    assert crashed_process(None) is None


@pytest.mark.parametrize(
    ("set_before", "dumps"),
    [
        ({}, "0"),
        ({"SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "1"}, "1"),
        ({"CUDA_ENABLE_USER_TRIGGERED_COREDUMP": "1"}, None),
    ],
)
def test_crash_waits_for_core_dumps_only_where_somebody_asked_for_them(
    set_before: dict[str, str], dumps: str | None
) -> None:
    environ = dict(set_before)
    skip_core_dumps(environ)
    assert environ.get("SGLANG_CUDA_COREDUMP_BEFORE_CRASH") == dumps
