"""A launcher as a child process: it starts servers, keeps them running, and ends with this process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sun_sglang.errors import LaunchError
from sun_sglang.launch.state import DeploymentState, Phase, read_state
from sun_sglang.launch.supervision.log_end import last_lines
from sun_sglang.processes import tied_to_this_process

_POLL = 0.1
_SHOWN_LINES = 30
# a router may let requests in flight go on for 30 s, and a worker that does not end is killed after 10 s
_END_WITHIN = 90.0


class Launcher:
    """A launcher process. The client's event loop is not shared with it: its work must not make the client late.

    Args:
        arguments: a Python module and its arguments.
        run_dir: directory of its state and its logs; exists.
    """

    def __init__(self, arguments: Sequence[str], run_dir: Path) -> None:
        self._arguments = arguments
        self._run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _output(self) -> Path:
        return self._run_dir / "supervisor.log"

    async def start(self) -> DeploymentState:
        """Start it, and return its state once all servers are ready. `stop` follows, also after a failure.

        Raises:
            LaunchError: it ended before; shows the end of its output.
        """
        process = self._process = self._spawn()
        while process.poll() is None:
            state = read_state(self._run_dir)
            if state is not None and state.pid == process.pid and state.phase == Phase.READY:
                return state
            await asyncio.sleep(_POLL)
        raise LaunchError(f"it did not start: {self._reason()}")

    async def stop(self) -> None:
        """End it and all of its servers; kill it if it does not end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, _END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def _reason(self) -> str:
        """Return the launcher's last error, which has the end of a worker's log; without one, the end of its output."""
        end = last_lines(self._output.read_bytes(), _SHOWN_LINES)
        _, mark, error = f"\n{end}".rpartition("\nerror: ")
        return error if mark else f"the end of {self._output}:\n{end}"

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._output.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal is for this process, which stops the launcher itself
                process_group=0,
                preexec_fn=tied_to_this_process(),
            )
