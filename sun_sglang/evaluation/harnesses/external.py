"""Harnesses that are programs of their own: found, run, and held to their exit code."""

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
        UserError: it is not; says how to install it.
    """
    if shutil.which(name) is None:
        raise UserError(
            f"`{name}` is not on the PATH; install {package} in an environment of its own and put that on the PATH: "
            f"python -m venv harness && harness/bin/pip install {package} && export PATH=$PWD/harness/bin:$PATH"
        )


def run_program(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
    """Run a harness in a directory, with its output on standard error.

    Raises:
        UserError: it failed.
    """
    ended = subprocess.run(command, cwd=directory, env={**os.environ, **environment}, stdout=2, check=False)
    if ended.returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed with {ended.returncode}; its own words are above")
