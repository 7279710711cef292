"""The package registry, queried through pip's resolver without installing anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from sun_sglang.bench.engine_check.cpu_list import Pin
from sun_sglang.bench.engine_check.errors import ConflictError, EngineCheckError, NotOfferedError
from sun_sglang.bench.engine_check.releases import Release

PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")
_NOT_OFFERED = re.compile(r"No matching distribution found for (\S+)")
_OFFERED = re.compile(r"from versions: ([^)]*)\)")
_NEWEST = 3


class PipRegistry:
    """Queries pip for the releases that it would install for this interpreter, and caches their metadata.

    Args:
        cache: JSON file of metadata by pin; the metadata of a release never changes.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, dict[str, Any]] = _read(cache)

    def releases(self, pins: Iterable[Pin]) -> list[Release]:
        """Return the release of each pin, in order.

        Raises:
            NotOfferedError: the registry lacks a release.
            EngineCheckError: pip failed for another reason.
        """
        pins = list(pins)
        unknown = [pin for pin in pins if _key(pin) not in self._known]
        if unknown:
            found = {r.key: r for r in self._report("--no-deps", *map(str, unknown))}
            for pin in unknown:
                release = found[pin.key]
                requires = [str(r) for r in release.requires]
                self._known[_key(pin)] = {"version": str(release.version), "requires": requires}
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            self._cache.write_text(json.dumps(self._known, indent=1))
        return [_release({"name": pin.name, **self._known[_key(pin)]}) for pin in pins]

    def offers(self, requirement: Requirement) -> bool:
        """Return whether the registry has a release that a requirement allows.

        Raises:
            EngineCheckError: pip failed for another reason.
        """
        try:
            self._report("--no-deps", str(requirement))
        except (ConflictError, NotOfferedError):
            return False
        return True

    def resolve(self, required: Sequence[Requirement], constraints: Sequence[Pin]) -> list[Release]:
        """Return releases that satisfy the given requirements, and their own ones among each other.

        Args:
            required: the requirements.
            constraints: pins that must hold.

        Raises:
            ConflictError: no releases satisfy all requirements under these constraints.
            NotOfferedError: the registry lacks a required release.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(map(str, constraints)))
            file.flush()
            return self._report("--constraint", file.name, *map(str, required))

    def _report(self, *arguments: str) -> list[Release]:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            command = [sys.executable, *PIP, "install", "--dry-run", "--ignore-installed", "--report", str(report)]
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise pip_error(done.stdout, done.stderr)
            installed = json.loads(report.read_text())["install"]
        return [_release(_of_report(i["metadata"])) for i in installed]


def pip_error(stdout: str, stderr: str) -> EngineCheckError:
    """Return one error for the output of a failed pip."""
    if missing := _NOT_OFFERED.search(stderr):
        listed = _OFFERED.search(stderr)
        versions = [v.strip() for v in listed[1].split(",")] if listed else []
        return NotOfferedError(missing[1], tuple(v for v in versions if v not in ("", "none"))[-_NEWEST:])
    conflict = stdout.partition("The conflict is caused by:")[2].partition("To fix this")[0]
    if conflict.strip():
        return ConflictError("; ".join(line.strip() for line in conflict.splitlines() if line.strip()))
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return EngineCheckError(f"pip failed: {errors[0] if errors else stderr.strip().rpartition(chr(10))[2]}")


def _of_report(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": metadata["name"],
        "version": metadata["version"],
        "requires": metadata.get("requires_dist", []),
    }


def _release(record: dict[str, Any]) -> Release:
    return Release(record["name"], Version(record["version"]), tuple(Requirement(text) for text in record["requires"]))


def _key(pin: Pin) -> str:
    return f"{pin.key}=={pin.version}"


def _read(cache: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads(cache.read_text()))
    except (FileNotFoundError, ValueError):
        return {}
