"""Router processes that share a port."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import orjson

from sun_sglang.bench.processes import router_command
from tests.support.ports import PORTS


def test_processes_share_a_port_and_drain(tmp_path: Path) -> None:
    fleet = {
        "tasks": {"math": {"prefill": "p", "decode": "d"}},
        "pools": {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}},
        "workers": [],
        "router": {"port": next(PORTS), "processes": 2},
    }
    path = tmp_path / "fleet.json"
    path.write_bytes(orjson.dumps(fleet))
    commands = [router_command(str(path), "--process", str(i)) for i in range(2)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        assert process.stderr is not None
        assert orjson.loads(process.stderr.readline())["event"] == "listening"
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
