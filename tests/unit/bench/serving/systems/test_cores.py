from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.serving.systems.cores import cores_of, parse_cores, pin

CORE = min(os.sched_getaffinity(0))


def test_cores_are_lists_and_ranges_by_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert parse_cores("prefill:0-2 decode:3,5-6") == {"prefill": (0, 1, 2), "decode": (3, 5, 6)}


def test_cores_of_a_server_are_those_of_prefill_and_decode_unless_it_has_its_own() -> None:
    assert cores_of("server", {"prefill": (0,), "decode": (1,)}) == (0, 1)
    assert cores_of("server", {"server": (3,), "decode": (1,)}) == (3,)
    assert cores_of("router", {"decode": (1,)}) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no role"),
        ("decoder:0", "unknown role `decoder`; known: `prefill`"),
        (f"decode:{CORE} decode:{CORE}", "`decode` is named twice"),
        ("decode:", "write ROLE:CORES"),
        ("decode:x", "write ROLE:CORES"),
        ("decode:5-1", "cores of this process: "),
        ("decode:4096", "cores of this process: "),
    ],
)
def test_cores_that_are_wrong_are_refused(text: str, message: str) -> None:
    with pytest.raises(FlagError, match=message):
        parse_cores(text)


def test_pin_binds_a_process_with_its_threads_and_children() -> None:
    code = (
        "import subprocess, sys, threading; threading.Thread(target=sys.stdin.read, daemon=True).start(); "
        "child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            pin(process.pid, [CORE])
            threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]  # noqa: PTH208 - names alone
            assert len(threads) == 2
            assert {frozenset(os.sched_getaffinity(pid)) for pid in (*threads, child)} == {frozenset({CORE})}
        finally:
            os.kill(child, 9)
            process.kill()


def test_pin_process_that_has_ended_is_left_out() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    pin(process.pid, [CORE])
