"""Start a launcher that outlives this process, and wait until its deployment is ready."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sun_sglang.errors import LaunchError
from sun_sglang.launch.state import DeploymentState, Phase, read_state
from sun_sglang.launch.supervision.log_end import last_lines

_POLL = 0.1
_SHOWN_LINES = 30


def launch_detached(
    file: Path, options: Sequence[str], run_dir: Path, show: Callable[[DeploymentState], None]
) -> DeploymentState:
    """Run `sun launch` in a session of its own, and return the deployment's state once it is ready.

    Args:
        file: the topology file.
        options: further options of `sun launch`.
        run_dir: the deployment's run directory; `supervisor.log` in it receives the launcher's output.
        show: called with each state that is read meanwhile.

    Raises:
        LaunchError: the launcher ended before the deployment was ready; shows the end of its output.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    output = run_dir / "supervisor.log"
    arguments = ["launch", str(file.resolve()), *options, "--run-dir", str(run_dir)]
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sun_sglang.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while process.poll() is None:
        state = read_state(run_dir)
        if state is not None and state.pid == process.pid:
            show(state)
            if state.phase == Phase.READY:
                return state
        time.sleep(_POLL)
    end = last_lines(output.read_bytes(), _SHOWN_LINES)
    raise LaunchError(f"the deployment did not start; the end of {output}:\n{end}")
