"""The router as a process: its arguments, its exit codes, its signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.processes import router_command

FLEET = {
    "tasks": {"math": {"prefill": "p", "decode": "d"}},
    "pools": {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}},
    "workers": [{"name": "p-0", "pool": "p", "url": "http://127.0.0.1:9"}],
    "router": {"port": 0},
}


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = router_command(*args)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def written(tmp_path: Path, **changes: Any) -> str:
    file = tmp_path / "fleet.json"
    file.write_text(json.dumps(FLEET | changes))
    return str(file)


@pytest.mark.parametrize("args", [(), ("a", "b"), ("--help",)])
def test_wrong_usage(args: tuple[str, ...]) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: python -m sun_sglang.router FLEET.json [--process I]\n"


def test_a_wrong_file_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run(written(tmp_path, pools={}))
    assert (done.returncode, done.stdout) == (2, "")
    assert "pools" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(written(tmp_path, router={"port": port}))
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["event"] == "failed"
    assert f"cannot listen on 127.0.0.1:{port}" in last["why"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    command = router_command(written(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        listening = json.loads(process.stderr.readline())
        assert listening["event"] == "listening"
        port = int(listening["url"].rsplit(":", 1)[1])
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert "draining" in events
    assert events[-1] == "stopped"
