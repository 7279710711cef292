"""The origin of a report: the machine, the installed versions and the revision of the code."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, JsonValue

from sun_sglang.strict import Strict


def as_json(values: Mapping[str, object]) -> dict[str, JsonValue]:
    """Return values as they read back from JSON: a tuple becomes a list.

    Raises:
        TypeError: a value has no JSON form.
        ValueError: a number is infinite or not a number.
    """
    return dict(json.loads(json.dumps(values, allow_nan=False)))


JsonObject: TypeAlias = Annotated[dict[str, JsonValue], BeforeValidator(as_json)]
PACKAGES = ("sun-sglang", "sglang", "torch", "transformers")


class Machine(Strict):
    """The machine that a benchmark ran on, without host names and paths.

    Attributes:
        processor: its processor's name, or its architecture where the system names no processor; None: not recorded.
        cores: cores that the benchmark may use; None: not recorded.
        kernel: release of the kernel; None: not recorded.
        gpus: a line for each GPU; None: not recorded.
        details: more facts, by name.
    """

    processor: str | None = None
    cores: int | None = None
    kernel: str | None = None
    gpus: tuple[str, ...] | None = None
    details: JsonObject = Field(default_factory=dict)

    def __str__(self) -> str:
        """Return the processor and the number of its cores, for a table's caption."""
        return f"{self.processor}, {self.cores} cores"


def this_machine() -> Machine:
    """Return the machine of this process; its GPUs are not looked up."""
    processor = platform.processor() or platform.machine()
    return Machine(processor=processor, cores=len(os.sched_getaffinity(0)), kernel=platform.release())


def installed_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the version of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """Return the commit of the checkout that this code runs from.

    Returns:
        None where the code is not in a checkout, and where the checkout has changes outside `bench/results`: then no
        commit describes the code.
    """
    here = Path(__file__).resolve()
    try:
        if _git(here.parent, "ls-files", here.name) != here.name:
            return None
        if _git(here.parents[1], "status", "--porcelain", "--", ".", ":!bench/results"):
            return None
        return _git(here.parent, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
