"""Draw every figure from the reports in `bench/results/`.

python -m sun_sglang.bench.figures
python -m sun_sglang.bench.figures training_sharing --out build/figures
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sun_sglang.bench.figures.registry import FIGURES
from sun_sglang.bench.report import RESULTS
from sun_sglang.errors import UserError

_NAMES = ", ".join(figure.name for figure in FIGURES)


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Figures to draw ({_NAMES}); none: all.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the reports.")] = RESULTS,
    out: Annotated[Path, typer.Option(help="Folder of the figures.")] = RESULTS,
) -> None:
    """Draw figures from reports. Exit code 1: a report is missing or broken; 2: a name is not a figure."""
    console = Console(stderr=True)
    if unknown := [name for name in names or () if name not in {figure.name for figure in FIGURES}]:
        console.print(f"[red]`{unknown[0]}` is not a figure; the figures are: {_NAMES}[/]")
        raise typer.Exit(2)
    out.mkdir(parents=True, exist_ok=True)
    try:
        for figure in FIGURES:
            if not names or figure.name in names:
                console.print(f"drew {figure.draw(results, out)}")
    except UserError as e:
        console.print(f"[red]{e}[/]")
        raise typer.Exit(1) from e


if __name__ == "__main__":
    typer.run(main)
