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

from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.serving.campaign.session import run_benchmark
from sun_sglang.bench.serving.problems import problems_of_result
from sun_sglang.bench.serving.result import BenchResult
from sun_sglang.bench.serving.run import NothingMeasuredError
from sun_sglang.bench.serving.systems.system import RunningSystem
from sun_sglang.bench.serving.targets.running import deployment_target, url_target
from sun_sglang.bench.serving.targets.target import Target
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
    _check_output(output)
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
    _exit(result, output, interrupted=interrupted)


async def find_target(files: Sequence[Path], url: str | None, run_dir: Path | None) -> Target:
    """Return the running server that the user means."""
    if url is not None:
        return await url_target(url, os.environ)
    return await deployment_target(files[0] if files else None, run_dir)


def _check_output(output: Path | None) -> None:
    """Raise BenchError where the file could not be written after the run."""
    if output is not None and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise FlagError("output", f"{output} cannot be written; name a file in a directory that exists")


def _exit(result: BenchResult, output: Path | None, *, interrupted: bool) -> None:
    """State where the result is and what is wrong with it, and exit with its status."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if output is not None:
        errors.print(f"written to {output}", markup=False)
    problems = problems_of_result(result)
    for problem in problems:
        errors.print("[bold red]error:[/]", end=" ")
        errors.print(problem, markup=False)
    if interrupted:
        sys.exit(INTERRUPTED)
    if problems:
        sys.exit(1)
