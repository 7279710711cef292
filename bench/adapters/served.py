"""SUN with adapters beside one multi-LoRA server and the plain base, on a real model: throughput, TTFT and TPOT.

    make model
    python -m sun_sglang.bench.adapters.served 32
    chrt --rr --reset-on-fork 1 python -m sun_sglang.bench.adapters.served 32 --concurrency 16 --num-profile-runs 3

Writes random adapters and the files of three systems below `build/adapters/`, and becomes `sun bench --compare` on them
with the result in `bench/results/serving/`. The same command again continues it. Every further argument is one of
`sun bench` and replaces a default here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sun_sglang.bench.adapters.random_adapters import layer_sizes, write_adapters
from sun_sglang.bench.adapters.system_files import write_systems
from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.report import RESULTS
from sun_sglang.bench.smollm2.model import BASE
from sun_sglang.errors import UserError

OUT = Path("build/adapters")
DEFAULTS = {
    "--zipf": "0,1.5,3",
    "--concurrency": "8",
    "--isl": "32",
    "--osl": "64",
    "--warmup-duration": "10",
    "--benchmark-duration": "30",
    "--num-profile-runs": "2",
    "--cores": "prefill:0 decode:1",
}

_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def main(
    ctx: typer.Context,
    count: Annotated[int, typer.Argument(min=1, max=1000, help="Number of adapters, one for each task.")],
    base: Annotated[Path, typer.Option(help="The base's checkpoint.")] = BASE,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.")] = 16,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Adapters that SUN's prefill worker holds at once; default: all.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of all models.")] = "float32",
    out: Annotated[Path, typer.Option(help="Folder of the adapters and the systems' files.")] = OUT,
    prepare: Annotated[bool, typer.Option("--prepare", help="Write the files, show the command, and stop.")] = False,
) -> None:
    """Compare SUN with adapters, one multi-LoRA server and the plain base."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        adapters = write_adapters(layer_sizes(base), out / f"rank{rank}", count, rank=rank)
        files = write_systems(out / system_name(count, slots), base, adapters, slots=slots or count, dtype=dtype)
    except UserError as e:
        console.print(f"[bold red]error:[/] {e}")
        raise typer.Exit(1) from e
    result = RESULTS / "serving" / f"adapters_{system_name(count, slots)}.json"
    arguments = bench_arguments(files, result, ctx.args)
    console.print("sun bench", *arguments)
    if not prepare:
        command = sun_command("bench", *arguments)
        # this process keeps its priority, which a new one would not
        os.execv(command[0], command)


def system_name(count: int, slots: int | None) -> str:
    """Return the name of a comparison's folder and result."""
    return str(count) if slots is None else f"{count}_slots{slots}"


def bench_arguments(files: list[Path], result: Path, given: list[str]) -> list[str]:
    """Return the arguments of `sun bench`: the user's, and each default that the user does not give.

    Args:
        files: the systems' files.
        result: the file of the result.
        given: the user's arguments.
    """
    flags = {word.partition("=")[0] for word in given if word.startswith("-")}
    defaults = {"--output": str(result), **DEFAULTS}
    if "-o" in flags:
        flags.add("--output")
    added = [part for flag, value in defaults.items() if flag not in flags for part in (flag, value)]
    return ["--compare", *map(str, files), *given, *added]


if __name__ == "__main__":
    _app(args=sys.argv[1:])
