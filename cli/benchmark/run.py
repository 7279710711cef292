"""Run a benchmark with its live view, and print its result."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from sun_sglang.bench.serving.campaign.session import run_benchmark
from sun_sglang.bench.serving.problems import problems_of_result
from sun_sglang.bench.serving.report.page.page import write_page
from sun_sglang.bench.serving.report.study.load import study_of
from sun_sglang.bench.serving.report.study.study import Source
from sun_sglang.bench.serving.result import BenchResult
from sun_sglang.bench.serving.run import NothingMeasuredError
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.systems.cores import parse_cores, pin
from sun_sglang.bench.serving.systems.files import load_systems
from sun_sglang.bench.serving.systems.system import RunningSystem, System
from sun_sglang.bench.serving.targets.running import deployment_target, url_target
from sun_sglang.bench.serving.targets.target import Target, choose_tasks
from sun_sglang.cli.benchmark.files import check_report, check_writable
from sun_sglang.cli.benchmark.settings import read_lists, read_settings
from sun_sglang.cli.display.bench_comparison import render_result
from sun_sglang.cli.display.bench_live import BenchDisplay
from sun_sglang.errors import SunError

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of the signal, as shells have it."""


def run_bench(flags: Mapping[str, Any]) -> None:
    """Run `sun bench`. Exits with 1 if the result is not valid, and with 130 where the user stopped it.

    Args:
        flags: the value of each flag by its name with underscores.
    """
    output: Path | None = flags["output"]
    report: Path | None = flags["report"]
    check_writable("output", output)
    check_report(report, output)
    lists = read_lists(flags)
    with _found(flags) as found:
        settings = read_settings(flags, lists, found.tasks)
        result, interrupted = _measure(found.systems, settings, output)
        found.keep_logs = any(system.error for system in result.systems)
    if flags["as_json"]:
        typer.echo(result.model_dump_json(indent=2))
    else:
        Console(highlight=False).print(render_result(result))
    if report is not None:
        write_page(study_of([Source(output.stem if output else "this run", result)]), report)
    _exit(result, [output, report], interrupted=interrupted)


@dataclass
class _Found:
    """What is measured.

    Attributes:
        systems: the systems.
        tasks: their tasks.
        keep_logs: whether the logs of what was started stay, also where the user names no directory for them.
    """

    systems: Sequence[System]
    tasks: tuple[str, ...]
    keep_logs: bool = False


@contextmanager
def _found(flags: Mapping[str, Any]) -> Iterator[_Found]:
    """Yield what is measured."""
    wished = [name.strip() for name in flags["tasks"].split(",")] if flags["tasks"] else []
    files, run_dir = flags["files"] or (), flags["run_dir"]
    if not flags["compare"]:
        target = asyncio.run(find_target(files, flags["url"], run_dir))
        yield _Found([RunningSystem(target)], target.choose(wished))
        return
    cores = parse_cores(flags["cores"]) if flags["cores"] else {}
    if "client" in cores:
        pin(os.getpid(), cores["client"])
    directory = run_dir.resolve() if run_dir is not None else Path(tempfile.mkdtemp(prefix="sun-bench-"))
    keep = run_dir is not None
    try:
        systems, tasks = asyncio.run(load_systems(files, directory, cores))
        found = _Found(systems, choose_tasks(systems[0].report.name, tasks, wished))
        try:
            yield found
        except SunError:
            # it may name a log
            keep = True
            raise
        keep = keep or found.keep_logs
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _measure(systems: Sequence[System], settings: BenchSettings, output: Path | None) -> tuple[BenchResult, bool]:
    console = Console(stderr=True, highlight=False)
    command = shlex.join(["sun", *sys.argv[1:]])
    try:
        return run_benchmark(systems, settings, command=command, output=output, view=BenchDisplay(console))
    except NothingMeasuredError as e:
        console.print(str(e), markup=False, soft_wrap=True)
        sys.exit(INTERRUPTED)


async def find_target(files: Sequence[Path], url: str | None, run_dir: Path | None) -> Target:
    """Return the running server that the user means."""
    if url is not None:
        return await url_target(url, os.environ)
    return await deployment_target(files[0] if files else None, run_dir)


def _exit(result: BenchResult, files: Sequence[Path | None], *, interrupted: bool) -> None:
    """State where the files are and what is wrong with it, and exit with its status."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    for file in files:
        if file is not None:
            errors.print(f"written to {file}", markup=False)
    problems = problems_of_result(result)
    for problem in problems:
        errors.print("[bold red]error:[/]", end=" ")
        errors.print(problem, markup=False)
    if interrupted:
        sys.exit(INTERRUPTED)
    if problems:
        sys.exit(1)
