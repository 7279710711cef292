"""What a deployment on this machine says of itself, in one file, for `sun status` and `sun stop`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from sun_sglang.processes import start_ticks
from sun_sglang.strict import Strict

_FILE = "state.json"


class Phase(StrEnum):
    """Where a process, or the whole deployment, stands."""

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
        phase: as its supervisor sees it; whether a worker serves is the router's to say.
        pid: 0 while there is none.
        url: its HTTP server.
        log: its output.
        restarts: how often it was started again.
        detail: how it ended last.
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


class DeploymentState(Strict):
    """One deployment.

    Attributes:
        topology: the file it was launched from.
        pid: the supervisor.
        created: when that process was created, in clock ticks after the machine's start; tells it from a later one with
            its pid, also where the clock was set meanwhile.
        phase: `starting` until every task answered its canary, then `ready`.
        url: where clients reach the router.
        transfer: the KV transfer backend.
        seconds_to_ready: from the launch to the last task's canary; None before.
        detail: why it failed or stopped.
        processes: the router and the workers.
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

    @property
    def alive(self) -> bool:
        """Whether its supervisor still runs."""
        return start_ticks(self.pid) == self.created


def deployments_dir() -> Path:
    """Where deployments keep their files, unless told otherwise."""
    root = os.environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "sun-sglang"


def run_dir_of(topology: Path) -> Path:
    """The directory of a topology file's deployment: one file, one deployment."""
    path = topology.resolve()
    return deployments_dir() / f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def write_state(run_dir: Path, state: DeploymentState) -> None:
    """Replace a deployment's state in one step."""
    partial = run_dir / f".{_FILE}"
    partial.write_text(state.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(run_dir / _FILE)


def read_state(run_dir: Path) -> DeploymentState | None:
    """A deployment's state; None where there is none, or where another version wrote it."""
    try:
        return DeploymentState.model_validate_json((run_dir / _FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def known_deployments() -> Iterator[tuple[Path, DeploymentState]]:
    """Directory and state of every deployment on this machine, running or not."""
    root = deployments_dir()
    for directory in sorted(root.iterdir()) if root.is_dir() else ():
        state = read_state(directory)
        if state is not None:
            yield directory, state
