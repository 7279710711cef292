"""The checks in the environment: every hook on SGLang, and the tests on real workers."""

from __future__ import annotations

import json
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sun_sglang.bench.engine_check.errors import EngineCheckError
from sun_sglang.patches.versions import ANY_VERSION_VARIABLE, INACTIVE

# every name of SGLang that this package uses; exactness, cache and API on real workers; the emulator's replies compared
# with theirs; the request fields; the worker key; and the decode cache on SGLang's pools
FILES = (
    "test_names.py",
    "test_exactness.py",
    "test_cache.py",
    "test_decode_cache.py",
    "test_prompt_only_cache.py",
    "test_first_token.py",
    "test_api.py",
    "test_emulated.py",
    "test_fields.py",
    "test_worker_key.py",
)
_MESSAGE = 160
_OUTCOMES: Mapping[str, Literal["failed", "skipped"]] = {"failure": "failed", "error": "failed", "skipped": "skipped"}


@dataclass(frozen=True)
class Hook:
    """One hook on SGLang: the declaration of its patch for the version, and its state.

    Attributes:
        name: the patch's name.
        target: the function that it changes.
        declared: what the patch does on this version; None if it was not tested on the version.
        found: `applied`, `inactive`, `moved`, `missing`, or `unknown` where SGLang cannot be imported.
        why: the reason for the state.
        by_version: whether the patch declares itself inactive for that reason on some version.
    """

    name: str
    target: str
    declared: str | None
    found: str
    why: str
    by_version: bool = False

    @property
    def ok(self) -> bool:
        """Whether the state agrees with the declaration: applied, or not needed on this machine.

        A hook is wrong that is applied where it is declared inactive. So is a hook that reports the version as the
        reason for its inactivity, on a version on which it is declared to act.
        """
        declared_inactive = self.declared is not None and self.declared.startswith(INACTIVE)
        if self.found == "applied":
            return not declared_inactive
        if self.declared is not None and not declared_inactive and self.by_version:
            return False
        return self.found == "inactive"


@dataclass(frozen=True)
class Case:
    """The result of one test; `message` is the first line of a failed or skipped test's report."""

    file: str
    name: str
    outcome: Literal["passed", "failed", "skipped"]
    seconds: float
    message: str = ""


@dataclass(frozen=True)
class Suite:
    """The results of one run of pytest, and its exit status (0: everything passed)."""

    results: tuple[Case, ...]
    status: int


def check_hooks(python: Path, checkout: Path, version: str) -> tuple[Hook, ...]:
    """Load SGLang as a worker does and return the state of every hook.

    Args:
        python: the environment's interpreter.
        checkout: the source tree.
        version: the SGLang version.

    Raises:
        EngineCheckError: `sun doctor` ended without a report.
    """
    command = [str(python), "-m", "sun_sglang.cli", "doctor", "--json"]
    done = subprocess.run(command, cwd=checkout, env=_environment(), capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError as e:
        raise EngineCheckError(f"`sun doctor` failed: {done.stderr.strip().rpartition(chr(10))[2]}") from e
    return parse_hooks(report, version)


def parse_hooks(report: Mapping[str, Any], version: str) -> tuple[Hook, ...]:
    """Return the hooks in a report of `sun doctor`, with the declaration of each patch for a version."""
    trouble = next((f["detail"] for f in report["findings"] if f["what"] == "patches"), "")
    return tuple(
        Hook(
            p["name"],
            p["target"],
            p["versions"].get(version),
            p["state"],
            trouble or p["detail"],
            f"{INACTIVE}: {p['detail']}" in p["versions"].values(),
        )
        for p in report["patches"]
    )


def check_tests(python: Path, checkout: Path, results: Path) -> Suite:
    """Run the tests on real workers in one session of pytest, which prints its progress.

    Args:
        python: the environment's interpreter.
        checkout: the source tree with the tests.
        results: where pytest writes its results, as JUnit XML.
    """
    files = [str(Path("tests/engine") / name) for name in FILES]
    results.unlink(missing_ok=True)
    options = ["-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junit-xml={results}"]
    command = [str(python), "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=checkout, env=_environment(), check=False)
    if not results.exists():
        crash = Case("pytest", "run", "failed", 0.0, f"pytest ended with status {done.returncode} and no results")
        return Suite((crash,), done.returncode or 1)
    return Suite(parse_junit(results.read_text()), done.returncode)


def parse_junit(text: str) -> tuple[Case, ...]:
    """Parse pytest's JUnit XML."""
    return tuple(_test(case) for case in ET.fromstring(text).iter("testcase"))


def _test(case: ET.Element) -> Case:
    # a test's class name is its module's path; an error of collection has it in the name
    module = case.get("classname", "") or case.get("name", "")
    outcome: Literal["passed", "failed", "skipped"] = "passed"
    message = ""
    for child in case:
        if child.tag in _OUTCOMES and outcome != "failed":
            outcome = _OUTCOMES[child.tag]
            message = _message(child)
    file = next((f for f in FILES if f.removesuffix(".py") in module.split(".")), module.rpartition(".")[2] or "pytest")
    return Case(file, case.get("name", ""), outcome, float(case.get("time", 0)), message)


def _message(child: ET.Element) -> str:
    message, text = child.get("message", ""), child.text or ""
    if message == "collection failure":
        # this message names no exception; the last line of the traceback does
        raised = [line.removeprefix("E").strip() for line in text.splitlines() if line.startswith("E ")]
        return raised[-1] if raised else message
    return " ".join((message or text).split())[:_MESSAGE]


def _environment() -> dict[str, str]:
    # this command checks versions on which this package is not tested yet
    return {**os.environ, ANY_VERSION_VARIABLE: "1"}
