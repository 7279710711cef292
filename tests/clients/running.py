"""Processes of these tests: the demo, and clients that are programs. Each ends with the tests, however they end."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SUN = [os.environ.get("SUN_PYTHON", str(ROOT / ".venv/bin/python")), "-m", "sun_sglang.cli"]
_READY_WITHIN, _STOPPED_WITHIN = 300.0, 60.0
_PR_SET_PDEATHSIG = 1


@contextmanager
def running_demo(directory: Path) -> Iterator[str]:
    """Serve the demo at a free port, and yield the router's URL.

    Args:
        directory: receives the topology file, the deployment's state and its logs.

    Raises:
        RuntimeError: the demo does not start; the message holds the end of the launcher's output.
    """
    topology, run_dir, output = directory / "sun.yaml", directory / "run", directory / "launch.log"
    demo = (ROOT / "configs/demo/sun.yaml").read_text()
    topology.write_text(demo.replace("./models", str(ROOT / "configs/demo/models")) + "router: {port: 0}\n")
    with output.open("wb") as log:
        # in a session of its own: Ctrl-C reaches the tests alone, and they stop it
        launcher = subprocess.Popen(
            [*SUN, "launch", str(topology), "--run-dir", str(run_dir)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_ended_with_parent(signal.SIGTERM),
        )
    try:
        deadline = time.monotonic() + _READY_WITHIN
        while (url := _ready_url(run_dir / "state.json")) is None:
            if launcher.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the demo does not start:\n{output.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        yield url
    finally:
        launcher.terminate()
        try:
            launcher.wait(_STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            launcher.kill()


def run_client(command: Sequence[str | Path], timeout: float, **settings: Any) -> str:
    """Run a client to its end, and return its standard output.

    Args:
        command: the command line.
        timeout: seconds after which it is killed.
        settings: as for `subprocess.Popen`.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_ended_with_parent(signal.SIGKILL),
        **settings,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        # with its own processes: those of guidellm outlive it
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output + errors
    return output


def _ready_url(state: Path) -> str | None:
    found = json.loads(state.read_text()) if state.exists() else {}
    return str(found["url"]) if found.get("phase") == "ready" else None


def _ended_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Return a `preexec_fn` after which the kernel sends a signal to the child when this process ends."""
    parent = os.getpid()

    def tie() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return tie
