"""Run a benchmark with its live view, and print its result."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
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
from sun_sglang.bench.serving.systems.system import RunningSystem
from sun_sglang.bench.serving.targets.running import deployment_target, url_target
from sun_sglang.bench.serving.targets.target import Target
from sun_sglang.cli.benchmark.files import check_report, check_writable
from sun_sglang.cli.benchmark.settings import read_lists, read_settings
from sun_sglang.cli.display.bench_comparison import render_result
from sun_sglang.cli.display.bench_live import BenchDisplay

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
    wished = [name.strip() for name in flags["tasks"].split(",")] if flags["tasks"] else []
    target = asyncio.run(find_target(flags["files"] or (), flags["url"], flags["run_dir"]))
    tasks, systems = target.choose(wished), [RunningSystem(target)]
    settings = read_settings(flags, lists, tasks)
    console = Console(stderr=True, highlight=False)
    command = shlex.join(["sun", *sys.argv[1:]])
    try:
        result, interrupted = run_benchmark(
            systems, settings, command=command, output=output, view=BenchDisplay(console)
        )
    except NothingMeasuredError as e:
        console.print(str(e), markup=False, soft_wrap=True)
        sys.exit(INTERRUPTED)
    if flags["as_json"]:
        typer.echo(result.model_dump_json(indent=2))
    else:
        Console(highlight=False).print(render_result(result))
    if report is not None:
        write_page(study_of([Source(output.stem if output else "this run", result)]), report)
    _exit(result, [output, report], interrupted=interrupted)


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
