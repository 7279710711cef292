"""`sun train`: tune a task's module by a recipe."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sun_sglang.errors import RecipeError

EXAMPLE = "sun train configs/train/demo/math.yaml"
_NEEDED = ("torch", "transformers", "accelerate", "safetensors")


def command(
    file: Annotated[Path, typer.Argument(help="A training recipe.", show_default=False)],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check recipe and data, show the first examples with what gets a loss, sizes and steps, and stop.",
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in `output`.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Merge a LoRA into the weights.")] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Tune a model by a recipe: the prefill module (SUN), the decode module (PrefillShare), or the whole model.

    Data: JSON lines, a JSON array, CSV or Parquet, as chat messages with tools, ShareGPT, Alpaca or prompt and
    completion. Look at it with --dry-run first.
    """
    from sun_sglang.files.user_cache import engine_caches
    from sun_sglang.train.recipe import load_recipe

    # before the imports that read them: a home may be read-only
    os.environ.update(engine_caches(os.environ))
    recipe = load_recipe(file)
    if merge and recipe.lora is None:
        raise RecipeError(f"{file}: --merge is for a recipe with `lora`")
    _require_libraries(recipe.lora is not None, recipe.data.hub is not None, recipe.report_to)
    import torch
    from rich.console import Console

    from sun_sglang.train.data.preview import preview_of
    from sun_sglang.train.estimate import estimate
    from sun_sglang.train.sweep import prepare, run_sweep
    from sun_sglang.train.trainer.launched_processes import is_first_process, world_size

    if threads:
        torch.set_num_threads(threads)
    prepared = prepare(recipe)
    sizes = estimate(prepared)
    console = Console(stderr=True, highlight=False, quiet=not is_first_process())
    for note in prepared.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if dry_run:
        preview = preview_of(prepared.examples, prepared.tokenizer)
        if as_json:
            found = {**asdict(sizes), "total": sizes.total, "notes": prepared.notes, "data": preview.as_json()}
            typer.echo(json.dumps(found, indent=2))
        else:
            _show(sizes, preview)
        return
    for line in prepared.examples.report.lines(sizes.examples + sizes.validation):
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        f"{recipe.scheme}: {sizes.trained:,} of {sizes.parameters:,} parameters, "
        f"{sizes.examples} examples, {sizes.steps} steps x {sizes.rates} learning rates, "
        f"{world_size()} process{'es' if world_size() > 1 else ''}"
    )
    record = run_sweep(prepared, f"sun train {file.name}", console.print, resume=resume, merge=merge)
    if as_json and is_first_process():
        typer.echo(json.dumps({"output": recipe.output, **record.model_dump(mode="json")}, indent=2))


def _require_libraries(lora: bool, hub: bool, reports: tuple[str, ...]) -> None:
    from importlib.util import find_spec

    wanted = [*_NEEDED, *(["peft"] if lora else []), *(["datasets"] if hub else []), *reports]
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise RecipeError(
            f"{', '.join(missing)} cannot be imported; pip install 'sun-sglang[train]' {' '.join(reports)}"
        )


def _show(sizes: Any, preview: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from sun_sglang.cli.display.data_view import data_views

    console = Console(file=sys.stdout, highlight=False)
    for view in data_views(preview, sizes.examples + sizes.validation, console):
        console.print(view)
    table = Table("what", "size", title="Dry run", title_justify="left", show_header=False)
    table.add_row("parameters", f"{sizes.parameters:,}")
    table.add_row("trained", f"{sizes.trained:,}")
    for name in ("weights", "gradients", "optimizer", "activations", "total"):
        table.add_row(f"memory: {name}", _bytes(getattr(sizes, name)))
    table.add_row("examples", f"{sizes.examples:,} ({sizes.left_out:,} left out)")
    table.add_row("validation examples", f"{sizes.validation:,}")
    table.add_row("steps", f"{sizes.steps:,} x {sizes.rates} learning rates")
    table.add_row("accumulated a step", f"{sizes.accumulation:,}")
    console.print(table)


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
