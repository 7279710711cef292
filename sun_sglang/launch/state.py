"""The state of a deployment: `state.json` in its run directory, which the launcher writes and `sun status` reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from sun_sglang.errors import UserError
from sun_sglang.processes import start_ticks
from sun_sglang.strict import Strict

_FILE = "state.json"


class Phase(StrEnum):
    """Phase of a process or of the whole deployment."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class ProcessState(Strict):
    """One supervised process.

    Attributes:
        name: the worker's name, or `router`.
        pool: its pool; empty for the router.
        role: `prefill`, `decode` or `router`.
        phase: its phase by its supervisor. The router reports whether a worker serves.
        pid: its process id on its machine; 0 while it does not run.
        url: URL of its HTTP server; empty until it has a slot.
        log: file of its output.
        restarts: how often it was started again.
        detail: how it last ended.
        log_end: the last lines of its log where it ended before it served; empty once it serves.
    """

    name: str
    pool: str
    role: str
    phase: Phase
    pid: int
    url: str
    log: Path
    restarts: int
    detail: str = ""
    log_end: str = ""


def new_process(name: str, role: str, log: Path, *, pool: str = "", url: str = "") -> ProcessState:
    """Return the state of a process before its first start."""
    return ProcessState(name=name, pool=pool, role=role, phase=Phase.STARTING, pid=0, url=url, log=log, restarts=0)


class PoolSize(Strict):
    """The size of a pool that sizes itself.

    Attributes:
        pool: its name.
        workers: the number of workers that it is to have.
        least: fewest workers.
        most: most workers.
        serving: workers that take requests.
        starting: workers that were started and do not serve yet.
        draining: workers that are being taken out of the rotation.
        reason: the reason for `workers`, from the last decision.
        changed: the last change, as a sentence with its reason; empty before the first.
        changes: number of changes so far.
        boot_seconds: expected time from the start of a worker until it serves.
    """

    pool: str
    workers: int
    least: int
    most: int
    serving: int = 0
    starting: int = 0
    draining: int = 0
    reason: str = ""
    changed: str = ""
    changes: int = 0
    boot_seconds: float = 0.0


class DeploymentState(Strict):
    """One deployment.

    Attributes:
        topology: the topology file.
        pid: process id of the launcher.
        created: start of that process in clock ticks after the machine's boot. It distinguishes the process from a
            later one with its pid, even after a change of the clock.
        phase: `starting` until every task answered its canary, then `ready`.
        url: where clients reach the router.
        transfer: the KV transfer backend.
        seconds_to_ready: from the launch to the last task's canary; None before.
        detail: why it failed or stopped.
        processes: the router and the workers.
        sizes: the pools that size themselves.
        outlives_launcher: whether its workers outlive a launcher that was killed.
    """

    topology: Path
    pid: int
    created: int
    phase: Phase
    url: str
    transfer: str
    seconds_to_ready: float | None
    detail: str
    processes: tuple[ProcessState, ...]
    sizes: tuple[PoolSize, ...] = ()
    outlives_launcher: bool = False

    @property
    def is_left(self) -> bool:
        """Whether its launcher was killed and its workers may run without it."""
        return self.outlives_launcher and not self.alive and self.phase not in (Phase.STOPPED, Phase.FAILED)

    @property
    def alive(self) -> bool:
        """Whether its launcher still runs."""
        return start_ticks(self.pid) == self.created


def write_state(run_dir: Path, state: DeploymentState) -> None:
    """Replace the state of a deployment in one step."""
    partial = run_dir / f".{_FILE}"
    partial.write_text(state.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(run_dir / _FILE)


def read_state(run_dir: Path) -> DeploymentState | None:
    """Return the state of a deployment; None where there is none, or where another version wrote it.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return DeploymentState.model_validate_json((run_dir / _FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    except OSError as e:
        raise UserError(f"{run_dir / _FILE}: cannot be read ({e.strerror or e})") from e
