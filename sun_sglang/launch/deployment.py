"""Put a deployment together: check a topology, plan it for a place, and supervise it there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sun_sglang.errors import LaunchError, TopologyError
from sun_sglang.launch.autoscale.settings import read_scaling
from sun_sglang.launch.claim import claim
from sun_sglang.launch.discovery import command_for
from sun_sglang.launch.places.local.place import LocalPlace
from sun_sglang.launch.places.local.router import start_router
from sun_sglang.launch.places.local.start_methods import StartMethodName, choose_start
from sun_sglang.launch.places.place import Place
from sun_sglang.launch.planning.flags.flag_schema import load_flag_schema
from sun_sglang.launch.planning.plan import LaunchPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import PreflightReport, preflight, require_router_port
from sun_sglang.launch.state import read_state
from sun_sglang.launch.supervision.readiness import Limits
from sun_sglang.launch.supervision.supervisor import Changed, Supervisor
from sun_sglang.topology import Topology
from sun_sglang.topology_file import load_topology


class Prepared(NamedTuple):
    """A topology that can be launched.

    Attributes:
        file: the topology file.
        topology: its content.
        plan: what is started.
        place: where the workers run.
        findings: what the checks found.
    """

    file: Path
    topology: Topology
    plan: LaunchPlan
    place: Place
    findings: PreflightReport


async def prepare(
    file: Path,
    run_dir: Path,
    start: StartMethodName | None = None,
    warn: Callable[[str], None] = lambda _: None,
    *,
    require_port: bool = True,
) -> Prepared:
    """Load a topology, check everything that can be checked before a start, and plan it for this machine.

    Args:
        file: the topology file.
        run_dir: directory for the deployment's files.
        start: how workers are started; None leaves the choice to the place.
        warn: called with a sentence when the place cannot start workers as it should.
        require_port: raise where the router cannot listen now; else note it, since this deployment may be running.

    Raises:
        UserError: the first error in the topology.
    """
    topology = load_topology(file)
    place = LocalPlace(run_dir / "logs", start, warn=warn, taken_ports=frozenset({topology.router.port}))
    (machine,) = await place.machines()
    schema = load_flag_schema()
    findings = preflight(topology, machine, schema)
    for pool in findings.pools.values():
        if pool.nodes > 1:
            fix = "run it on several: `sun export kubernetes` (docs/kubernetes.md)"
            raise TopologyError(
                pool.flag_path("nnodes"), f"its workers span {pool.nodes} machines, and this is one", fix
            )
    try:
        require_router_port(topology)
    except TopologyError as e:
        if require_port:
            raise
        findings = replace(findings, notes=(*findings.notes, f"At present the {e}."))
    plan = make_plan(
        topology,
        machine,
        findings.pools,
        run_dir=run_dir,
        router_port=topology.router.port or place.take_port(),
        schema=schema,
        scaling=read_scaling(topology),
    )
    choose_start(next((worker.name for worker in plan.workers if worker.gpus), None), start)
    return Prepared(file, topology, plan, place, findings)


def supervise(prepared: Prepared, changed: Changed, limits: Limits) -> Supervisor:
    """Return a supervisor for a prepared topology, with its directory made and the logs of an earlier run put aside.

    Args:
        prepared: from `prepare`.
        changed: called after every change, with the state and the router's last report.
        limits: when to give up.

    Raises:
        LaunchError: this topology is already running, or its directory cannot be written.
    """
    plan = prepared.plan
    require_not_running(plan.run_dir)
    logs = plan.run_dir / "logs"
    make_run_dir(plan.run_dir)
    try:
        claimed = claim(plan.run_dir)
        if logs.exists():
            logs.rename(plan.run_dir / f"logs-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**6:06d}")
        logs.mkdir(parents=True)
    except OSError as e:
        raise LaunchError(f"{plan.run_dir} cannot be used: {e}") from e
    return Supervisor(plan, prepared.file.resolve(), prepared.place, start_router, changed, claimed, limits)


def require_not_running(run_dir: Path) -> None:
    """Raise if a deployment runs from this directory.

    Raises:
        LaunchError: names its supervisor and how to stop it.
        UserError: the state in the directory cannot be read.
    """
    state = read_state(run_dir)
    if state is not None and state.alive:
        command = command_for("stop", state.topology, run_dir)
        raise LaunchError(f"{state.topology} is already running (pid {state.pid}); `{command}` ends it")


def make_run_dir(run_dir: Path) -> None:
    """Make a run directory.

    Raises:
        LaunchError: it cannot be made or written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as e:
        raise LaunchError(
            f"{run_dir} cannot be used: {e.strerror or e}; give another --run-dir, or set XDG_STATE_HOME"
        ) from e
