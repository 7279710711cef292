"""`make engine-check VERSION=0.5.24`: check another SGLang version in an environment of its own.

    python -m sun_sglang.bench.engine_check 0.5.24

Writes into `build/engine-check/VERSION`: `engine-cpu.txt` (the derived pins), `report.md`, `report.json` and pytest's
`tests.xml`. Exit code 0: every hook and every test passed; 1: one failed, or the environment cannot be made; 2: the
version is missing or invalid.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packaging.markers import default_environment
from packaging.version import InvalidVersion, Version
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sun_sglang.bench.engine_check.checks import check_hooks, check_tests
from sun_sglang.bench.engine_check.cpu_list import (
    DEVIATIONS,
    LIST,
    format_pins,
    parse_deviations,
    parse_pins,
)
from sun_sglang.bench.engine_check.derivation import Derivation
from sun_sglang.bench.engine_check.derive import derive
from sun_sglang.bench.engine_check.environment import prepare
from sun_sglang.bench.engine_check.errors import EngineCheckError
from sun_sglang.bench.engine_check.registry import PipRegistry
from sun_sglang.bench.engine_check.report import Report, bounds_to_move, sections, summary, to_markdown

TOOLS = "requirements/dev.txt"
_BUILD = "build/engine-check"
_INTERRUPTED = 128 + signal.SIGINT  # as a shell reports it


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="make engine-check", usage="make engine-check VERSION=0.5.24")
    parser.add_argument("version", type=_version, help="the SGLang version to check")
    version: str = parser.parse_args(arguments).version
    console = Console(highlight=False)
    try:
        report = check(Path.cwd(), version, console)
    except (EngineCheckError, OSError) as e:
        # an OSError: the disk is full, or the folder cannot be written
        console.print(f"[red]engine-check: {escape(str(e))}[/]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("engine-check: interrupted", soft_wrap=True)
        return _INTERRUPTED
    _show(console, report)
    return 0 if report.ok else 1


def check(checkout: Path, version: str, console: Console) -> Report:
    """Derive the pins, make the environment, check hooks and tests in it, and write the report.

    Args:
        checkout: the source tree.
        version: the SGLang version.
        console: shows progress.

    Raises:
        EngineCheckError: the environment cannot be made, or another check of this version is running.
    """

    def progress(line: str) -> None:
        console.print(f"engine-check: {escape(line)}", soft_wrap=True)

    with _claimed(checkout / _BUILD, version):
        return _check(checkout, version, progress)


def _check(checkout: Path, version: str, progress: Callable[[str], None]) -> Report:
    folder = checkout / _BUILD / version
    for stale in ("report.md", "report.json"):
        (folder / stale).unlink(missing_ok=True)
    derivation, pins, tools = derive_lists(checkout, version, progress)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "engine-cpu.txt").write_text(pins)
    environment = prepare(folder / "venv", checkout, pins, tools, progress)
    progress("hooks: loads SGLang as a worker does")
    hooks = check_hooks(environment.python, checkout, version)
    progress("tests: names, exactness, caches, API, the emulator's agreement, request fields, worker key")
    start = time.monotonic()
    tests = check_tests(environment.python, checkout, folder / "tests.xml")
    report = Report(
        derivation=derivation,
        bounds=tuple(bounds_to_move((checkout / "pyproject.toml").read_text(), derivation.pins)),
        hooks=hooks,
        tests=tests,
        environment_seconds=environment.seconds,
        environment_bytes=environment.bytes,
        tests_seconds=time.monotonic() - start,
    )
    (folder / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
    (folder / "report.md").write_text(to_markdown(report))
    progress(f"wrote {_BUILD}/{version}: engine-cpu.txt, report.md, report.json")
    return report


@contextmanager
def _claimed(build: Path, version: str) -> Iterator[None]:
    """Lock a version's folder: a second check would remove the environment that the first one makes."""
    build.mkdir(parents=True, exist_ok=True)
    with (build / f"{version}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise EngineCheckError(f"another check of {version} is running in this checkout; wait until it ends") from e
        yield


def derive_lists(checkout: Path, version: str, progress: Callable[[str], None]) -> tuple[Derivation, str, str]:
    """Derive the pins for a version; return the derivation, its list of pins, and the list of the other tools.

    Args:
        checkout: the source tree.
        version: the SGLang version.
        progress: shows one line of progress.

    Raises:
        EngineCheckError: a list is wrong, the registry lacks a version, or a pin cannot be met.
    """
    text = (checkout / LIST).read_text()
    base = parse_pins(text)
    deviations = parse_deviations((checkout / DEVIATIONS).read_text())
    progress(f"pins: reads the requirements of sglang {version} and of {len(base)} pinned packages")
    registry = PipRegistry(checkout / _BUILD / "metadata.json")
    derivation = derive(base, version, deviations, registry, marker_environment())
    tools = {
        name: pin
        for name, pin in parse_pins((checkout / TOOLS).read_text(), TOOLS).items()
        if name not in derivation.pins
    }
    return derivation, format_pins(derivation.pins, text), format_pins(tools)


def marker_environment() -> dict[str, str]:
    """Return the PEP 508 environment of this interpreter."""
    return {name: str(value) for name, value in default_environment().items()}


def _version(text: str) -> str:
    try:
        return str(Version(text))
    except InvalidVersion as e:
        raise argparse.ArgumentTypeError(f"`{text}` is not a version; write VERSION=0.5.24") from e


def _show(console: Console, report: Report) -> None:
    for section in sections(report):
        if not section.rows:
            console.print(f"\n[bold]{escape(section.title)}[/]: {escape(section.empty)}")
            continue
        table = Table(title=escape(section.title), title_justify="left")
        for column in section.columns:
            table.add_column(escape(column), overflow="fold")
        for row in section.rows:
            table.add_row(*map(escape, row))
        console.print()
        console.print(table)
    console.print()
    console.print(f"[{'green' if report.ok else 'red'}]{escape(summary(report))}[/]", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
