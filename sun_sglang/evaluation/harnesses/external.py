"""Run harnesses that are separate programs, and check their exit status."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sun_sglang.errors import UserError


def require_program(name: str, package: str) -> None:
    """Check that a harness is on the PATH.

    Raises:
        UserError: it is not; the message states how to install it.
    """
    if shutil.which(name) is None:
        raise UserError(
            f"`{name}` is not on the PATH; install {package} in an environment of its own and put that on the PATH: "
            f"python -m venv harness && harness/bin/pip install {package} && export PATH=$PWD/harness/bin:$PATH"
        )


def run_program(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
    """Run a harness, with its output on standard error.

    Args:
        command: the command line.
        directory: the working directory.
        environment: variables to add to the environment.

    Raises:
        UserError: the exit status is not 0.
    """
    ended = subprocess.run(command, cwd=directory, env={**os.environ, **environment}, stdout=2, check=False)
    if ended.returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed with exit status {ended.returncode}; its output is above")
