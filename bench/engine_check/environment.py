"""A virtual environment for one SGLang version, which is reused while its pins are the same."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sun_sglang.bench.engine_check.errors import EngineCheckError
from sun_sglang.bench.engine_check.registry import PIP, pip_error

_STAMP = "engine-check.json"


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        python: its interpreter.
        seconds: time that it took to make.
        bytes: its size on the disk.
    """

    python: Path
    seconds: float
    bytes: int


class _Stamp(NamedTuple):
    """The content of the file that is written last into a complete environment."""

    digest: str
    seconds: float
    bytes: int


def prepare(folder: Path, checkout: Path, pins: str, tools: str, progress: Callable[[str], None]) -> Environment:
    """Return the environment with these pins; make it if there is none, or if its pins differ.

    Args:
        folder: folder of the environment.
        checkout: the source tree, which is installed in place.
        pins: the engine's list, in pip's format.
        tools: the list of all other packages that the tests import.
        progress: shows one line of progress.

    Raises:
        EngineCheckError: pip failed; the environment is removed.
    """
    content = "\n".join([pins, tools, sys.version])
    digest = hashlib.sha256(content.encode()).hexdigest()
    stamp = folder / _STAMP
    python = folder / "bin" / "python"
    if (made := _read(stamp)) is not None and made.digest == digest and python.exists():
        progress(f"environment: reuses {folder}")
        _install_checkout(python, checkout)
        return Environment(python, made.seconds, made.bytes)
    progress(f"environment: makes {folder}")
    start = time.monotonic()
    try:
        _make(folder, pins, tools)
        _install_checkout(python, checkout)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    made = _Stamp(digest, time.monotonic() - start, disk_usage(folder))
    stamp.write_text(json.dumps(made._asdict()))
    return Environment(python, made.seconds, made.bytes)


def disk_usage(folder: Path) -> int:
    """Return the size of a folder on the disk in bytes; a file with several names counts once."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def _make(folder: Path, pins: str, tools: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    engine, rest = folder / "engine.txt", folder / "tools.txt"
    engine.write_text(pins)
    rest.write_text(tools)
    (torch,) = [line for line in pins.splitlines() if line.startswith("torch==")]
    _run([sys.executable, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    # as in the Makefile: torch with its requirements, the rest without, since SGLang's requirements need a GPU driver
    _pip(python, torch, "--constraint", str(engine))
    _pip(python, "--no-deps", "--requirement", str(engine), "--requirement", str(rest))


def _install_checkout(python: Path, checkout: Path) -> None:
    _pip(python, "--no-deps", "--editable", str(checkout))


def _pip(python: Path, *arguments: str) -> None:
    _run([str(python), *PIP, "install", "--quiet", *arguments])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineCheckError(f"the environment cannot be made: {pip_error(done.stdout, done.stderr)}")


def _read(stamp: Path) -> _Stamp | None:
    try:
        return _Stamp(**json.loads(stamp.read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        return None
