"""The `sun` command.

Each module of this package that defines a function `command` with typer's annotations is a command; its name is the
module's name, and its `EXAMPLE` is shown below its help. Commands are listed nowhere: a new file is a new command.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

import sun_sglang.cli
from sun_sglang import __version__
from sun_sglang.errors import SunError


def build_app() -> typer.Typer:
    """Return the typer application with every command of this package."""
    app = typer.Typer(
        name="sun",
        help="Serve many task-specialised LLMs of one backbone from shared pools of SGLang workers.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in command_names():
        module = importlib.import_module(f"sun_sglang.cli.{name}")
        app.command(name, epilog=f"Example: {module.EXAMPLE}")(module.command)
    return app


def command_names() -> Iterator[str]:
    """Yield the names of the commands, sorted."""
    for module in pkgutil.iter_modules(sun_sglang.cli.__path__):
        if module.name.startswith("_"):
            continue
        if hasattr(importlib.import_module(f"sun_sglang.cli.{module.name}"), "command"):
            yield module.name


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `sun` command. Exits with 0, with 1 if the command failed, or with 2 after wrong usage.

    An error that this package raises on purpose is printed in one line. Any other error is a defect and shows its
    traceback.
    """
    try:
        build_app()(args=arguments, prog_name="sun")
    except SunError as e:
        from rich.console import Console

        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("[bold red]error:[/]", end=" ")
        console.print(str(e), markup=False)
        sys.exit(1)


def _options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=lambda v: _show_version(v))] = False,
) -> None:
    pass


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sun-sglang {__version__}")
        raise typer.Exit
