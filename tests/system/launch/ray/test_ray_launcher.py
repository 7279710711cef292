"""`sun` over a Ray cluster: a launcher that is killed, the next one, and an end without one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import yaml

from sun_sglang.bench.launch.ray_cluster import TwoNodes
from sun_sglang.bench.processes import run_sun
from sun_sglang.launch.places.ray.record import read_record
from sun_sglang.launch.planning.plan import WORKER_KEY
from sun_sglang.launch.state import DeploymentState, Phase, read_state
from sun_sglang.processes import start_ticks
from tests.system.launch.ray.test_ray_faults import TOPOLOGY, actors, placement_groups

WITHIN_S = 240.0


def sun(*arguments: str, status: int = 0) -> str:
    done = run_sun(*arguments, timeout=WITHIN_S)
    assert done.returncode == status, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def state_of(run_dir: Path) -> DeploymentState:
    state = read_state(run_dir)
    assert state is not None
    return state


def workers_of(run_dir: Path) -> dict[str, tuple[int, str]]:
    return {p.name: (p.pid, p.url) for p in state_of(run_dir).processes if p.pool}


def kill_launcher(run_dir: Path) -> None:
    """Kill the launcher, and wait until its router has ended with it."""
    state = state_of(run_dir)
    (router,) = [psutil.Process(p.pid) for p in state.processes if p.role == "router"]
    os.kill(state.pid, signal.SIGKILL)
    psutil.wait_procs([router], timeout=WITHIN_S)
    assert start_ticks(router.pid) is None


def test_killed_launcher_leaves_workers_that_the_next_one_adopts_and_stop_ends(
    ray_nodes: TwoNodes, tmp_path: Path
) -> None:
    file, run_dir = tmp_path / "sun.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(TOPOLOGY))
    launch = ("launch", str(file), "--place", "ray", "--address", ray_nodes.address, "--detach")
    sun(*launch, "--run-dir", str(run_dir))
    first, key = workers_of(run_dir), (run_dir / WORKER_KEY).read_text()
    record = read_record(run_dir)
    assert record is not None

    kill_launcher(run_dir)
    shown = sun("status", "--run-dir", str(run_dir), status=1)
    assert "is gone, and the router with it; these workers run without it: base-0, math-0" in shown

    refused = run_sun("launch", str(file), "--place", "local", "--run-dir", str(run_dir), timeout=WITHIN_S)
    assert refused.returncode == 1
    assert "go on with them with `--place ray`" in " ".join(refused.stderr.split())

    sun(*launch, "--run-dir", str(run_dir))
    assert workers_of(run_dir) == first
    assert (run_dir / WORKER_KEY).read_text() == key
    assert all(process.restarts == 0 for process in state_of(run_dir).processes)
    assert read_record(run_dir) == record

    kill_launcher(run_dir)
    sun("stop", "--run-dir", str(run_dir))
    assert state_of(run_dir).phase == Phase.STOPPED
    assert [start_ticks(pid) for pid, _ in first.values()] == [None, None]
    assert actors(record.namespace) == placement_groups(record.namespace) == []
    assert "is not running" in sun("status", "--run-dir", str(run_dir), status=1)


def test_check_plans_with_the_machines_of_the_cluster(ray_nodes: TwoNodes, tmp_path: Path) -> None:
    file = tmp_path / "sun.yaml"
    file.write_text(yaml.safe_dump({**TOPOLOGY, "place": "ray"}))
    assert "Place: the Ray cluster at `auto`" in sun("check", str(file))
    file.write_text(yaml.safe_dump({**TOPOLOGY, "place": "ray", "engine": {"nnodes": 2}}))
    assert "engine.nnodes: its 1 ranks cannot be divided among 2 machines" in " ".join(
        run_sun("check", str(file), timeout=WITHIN_S).stderr.split()
    )
