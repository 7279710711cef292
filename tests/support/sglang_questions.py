"""Questions about the installed SGLang: one import for all processes of a test run (`sglang_process.py`)."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
WITHIN_S = 280.0


@dataclass(frozen=True)
class SGLangQuestions:
    """Asks a process that has imported SGLang; the first test that asks starts it.

    Attributes:
        directory: shared by all processes of the run.
        owner: pid of the process whose end ends the run.
    """

    directory: Path
    owner: int

    def __call__(self, call: Callable[..., Any] | str, *arguments: Any, env: Mapping[str, str] | None = None) -> Any:
        """Return what a function returns in a new fork of that process.

        Args:
            call: the function, or `module:name` where its module imports SGLang.
            arguments: its arguments, as JSON can carry them.
            env: environment variables to set.
        """
        name = call if isinstance(call, str) else f"{call.__module__}:{call.__qualname__}"
        with self._connect() as connection, connection.makefile("rwb") as file:
            file.write(json.dumps({"call": name, "arguments": arguments, "env": {**(env or {})}}).encode() + b"\n")
            file.flush()
            reply = file.read()
        assert reply, f"{name} ended its process: {self._log.read_text(errors='replace')[-3000:]}"
        found = json.loads(reply)
        assert "error" not in found, found["error"]
        return found["result"]

    @property
    def _log(self) -> Path:
        return self.directory / "sglang_process.log"

    def start(self) -> None:
        """Start the process unless it runs."""
        with self._place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._place.exists():
                self._place.write_text(self._run())

    @property
    def _place(self) -> Path:
        return self.directory / "sglang_process"

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(WITHIN_S)
        connection.connect(self._place.read_text())
        return connection

    def _run(self) -> str:
        # the path of a socket must be short
        path = f"{tempfile.mkdtemp(prefix='sglang-')}/socket"
        command = [sys.executable, "-W", "ignore", "-m", "tests.support.sglang_process", path, str(self.owner)]
        with self._log.open("wb") as log:
            done = subprocess.run(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
        assert done.returncode == 0, self._log.read_text(errors="replace")[-3000:]
        return path


@pytest.fixture(scope="session")
def ask_sglang(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> SGLangQuestions:
    """Return what asks the run's one process with SGLang."""
    base = tmp_path_factory.getbasetemp()
    at_xdist = hasattr(request.config, "workerinput")
    questions = SGLangQuestions(base.parent, os.getppid()) if at_xdist else SGLangQuestions(base, os.getpid())
    # before a test changes the environment
    questions.start()
    return questions
