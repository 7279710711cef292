"""Puts a deployment on this machine together: checks, plan, supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.places.local.claim import claim
from sun_sglang.launch.places.local.ports import free_ports
from sun_sglang.launch.places.local.start_methods import BackendStart, ForkOrPlainStart, PlainStart, StartMethod
from sun_sglang.launch.planning.engine_flags import load_schema
from sun_sglang.launch.planning.machine import detect
from sun_sglang.launch.planning.plan import LaunchPlan, make_plan
from sun_sglang.launch.planning.preflight import Findings, preflight, require_router_port
from sun_sglang.launch.state import DeploymentState, read_state
from sun_sglang.launch.supervision.supervisor import Supervisor
from sun_sglang.topology import load_topology

StartMethodName = Literal["fork", "plain"]


def plan_locally(file: Path, run_dir: Path) -> tuple[LaunchPlan, Findings]:
    """Load a topology, check everything that can be checked, and plan it for this machine.

    Raises:
        UserError: the first thing wrong.
    """
    topology = load_topology(file)
    machine, schema = detect(), load_schema()
    findings = preflight(topology, machine, schema)
    require_router_port(topology)
    plan = make_plan(topology, machine, findings.identities, run_dir=run_dir, ports=free_ports(), schema=schema)
    return plan, findings


def choose_start(plan: LaunchPlan, asked: StartMethodName | None) -> StartMethodName:
    """Return how a plan's workers are started: as asked, else plainly where one of them has a GPU, else forked.

    SGLang may use CUDA while it is imported and while it resolves a model's arguments, and binds a scheduler to a NUMA
    node only if `spawn` made it: a worker on a GPU is never forked.

    Raises:
        UserError: forks were asked for, and a worker has a GPU.
    """
    on_gpu = [worker.name for worker in plan.workers if worker.gpus]
    if on_gpu and asked == "fork":
        raise UserError(
            f"--start fork: `{on_gpu[0]}` runs on a GPU, and SGLang uses CUDA before it could be forked; leave "
            "`--start` out"
        )
    return asked or ("plain" if on_gpu else "fork")


def supervise(
    plan: LaunchPlan,
    file: Path,
    method: StartMethodName,
    changed: Callable[[DeploymentState, TasksReport | None], None],
    warn: Callable[[str], None],
    ready_timeout: float,
) -> Supervisor:
    """A supervisor for a plan, with its directory made and the logs of an earlier run put aside.

    Raises:
        LaunchError: this topology is already running, or its directory cannot be written.
    """
    require_not_running(plan.run_dir)
    logs = plan.run_dir / "logs"
    try:
        plan.run_dir.mkdir(parents=True, exist_ok=True)
        claimed = claim(plan.run_dir)
        if logs.exists():
            logs.rename(plan.run_dir / f"logs-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**6:06d}")
        logs.mkdir(parents=True)
    except OSError as e:
        raise LaunchError(f"{plan.run_dir} cannot be used: {e}") from e
    sglang: StartMethod = ForkOrPlainStart(logs / "fork-server.log", warn) if method == "fork" else PlainStart()
    start_method = BackendStart(plan.workers, sglang=sglang, emulated=PlainStart())
    return Supervisor(plan, file.resolve(), start_method, free_ports(), changed, ready_timeout, claimed)


def require_not_running(run_dir: Path) -> None:
    """Raise if a deployment runs from this directory.

    Raises:
        LaunchError: names its supervisor and how to stop it.
    """
    state = read_state(run_dir)
    if state is not None and state.alive:
        raise LaunchError(f"{state.topology} is already running (pid {state.pid}); `sun stop {state.topology}` ends it")
