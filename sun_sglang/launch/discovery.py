"""Find the deployments of this machine.

A deployment keeps all of its files in one run directory:

    ray.json          where the workers are, with `place: ray` (`places/ray/record.py`)
    planned-fleet.json  the fleet as planned (`supervision/kept_fleet.py`)
    state.json        what runs, for `sun status` (`state.py`)
    fleet.json        what the router serves
    admin.key         the launcher's own key for the router
    worker.key        the key that the workers require
    control.sock      commands to the launcher, from its user alone (`control/`)
    launch.lock       held by the launcher that uses the directory (`claim.py`)
    logs/             one file for each process; earlier runs are in logs-DATE-TIME-NUMBER/
    supervisor.log    output of the launcher where it runs detached
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sun_sglang.errors import UserError
from sun_sglang.launch.state import DeploymentState, Phase, read_state


class Deployment(NamedTuple):
    """A deployment of this machine: its run directory and its state."""

    run_dir: Path
    state: DeploymentState


def run_dir_of(topology: Path) -> Path:
    """Return the default run directory of a topology file: one file, one deployment."""
    path = topology.resolve()
    return _deployments_dir() / f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def command_for(name: str, topology: Path, run_dir: Path) -> str:
    """Return a command line of `sun` for one deployment.

    Args:
        name: the command, such as `stop`.
        topology: the topology file; it names the deployment where its directory is the default one.
        run_dir: the deployment's run directory.
    """
    try:
        default = run_dir.resolve() == run_dir_of(topology).resolve()
    except UserError:  # there is no home, so the user gave the directory
        default = False
    return shlex.join(["sun", name, *([str(topology)] if default else ["--run-dir", str(run_dir)])])


def running_deployments(file: Path | None, run_dir: Path | None) -> list[Deployment]:
    """Return the running deployments that a user means.

    Args:
        file: a topology file.
        run_dir: a run directory; it takes precedence over `file`.

    Returns:
        at most one where a file or a directory is given, else all that run.
    """
    return [deployment for deployment in _meant(file, run_dir) if deployment.state.alive]


def left_deployments(file: Path | None, run_dir: Path | None) -> list[Deployment]:
    """Return the deployments whose launcher was killed and whose workers may run without it.

    Arguments and number as in `running_deployments`.
    """
    return [deployment for deployment in _meant(file, run_dir) if deployment.state.is_left]


def _meant(file: Path | None, run_dir: Path | None) -> Iterable[Deployment]:
    """Return the deployments that a user means, in any phase; arguments as in `running_deployments`."""
    if file is None and run_dir is None:
        return known_deployments()
    directory = run_dir if run_dir is not None else run_dir_of(file) if file is not None else None
    assert directory is not None
    state = read_state(directory)
    return [Deployment(directory, state)] if state is not None else []


def running_deployment(file: Path | None, run_dir: Path | None) -> Deployment:
    """Return the one running deployment that a user means; arguments as in `running_deployments`.

    Raises:
        UserError: none runs, or more than one does.
    """
    found = running_deployments(file, run_dir)
    if not found:
        directory = run_dir or (run_dir_of(file) if file is not None else None)
        raise UserError(not_running(file or run_dir) + _killed(directory))
    if len(found) > 1:
        raise UserError(f"several deployments run; name one: {', '.join(str(d.state.topology) for d in found)}")
    return found[0]


def not_running(named: Path | None) -> str:
    """Return the sentence for a deployment that does not run, or for a machine on which none runs."""
    return f"{named} is not running" if named is not None else "no deployment is running"


def _killed(run_dir: Path | None) -> str:
    """Return the end of a sentence about a deployment whose launcher was killed; empty where it ended by itself."""
    state = read_state(run_dir) if run_dir is not None else None
    if state is None or state.alive or state.phase in (Phase.STOPPED, Phase.FAILED):
        return ""
    if state.is_left:
        return (
            f": its launcher (pid {state.pid}) is gone, and the router with it; `sun launch` goes on with its workers, "
            "`sun stop` ends them"
        )
    return f": its launcher (pid {state.pid}) is gone, and its workers with it; `sun launch` starts it again"


def known_deployments() -> Iterator[Deployment]:
    """Yield every deployment in the default directory of this user, running or not."""
    root = _deployments_dir()
    for directory in sorted(root.iterdir()) if root.is_dir() else ():
        state = read_state(directory)
        if state is not None:
            yield Deployment(directory, state)


def _deployments_dir() -> Path:
    root = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - Path raises without a home
    if root.startswith("~"):
        raise UserError("this user has no home directory; set XDG_STATE_HOME to a directory, or give --run-dir")
    return Path(root) / "sun-sglang"
