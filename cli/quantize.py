"""`sun quantize`: write a 4-bit checkpoint of a model, for a shared decode pool."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from sun_sglang.errors import QuantizeError

if TYPE_CHECKING:
    from sun_sglang.quantize.run import Prepared, Result

EXAMPLE = "sun quantize models/base --output models/base-awq --calibration chats.jsonl"
_NEEDED = ("torch", "transformers", "safetensors")


def command(
    model: Annotated[
        str,
        typer.Argument(help="Directory of the model, or the id of one in the Hugging Face cache.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Directory to make.", show_default=False)],
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Samples: a file in any format that sun train reads, or rows with a column `text`; or a Hub dataset. "
            "Only rtn works without.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of the Hub dataset.", show_default=False)] = None,
    split: Annotated[str, typer.Option(help="Split of the Hub dataset.")] = "train",
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Column of the prompt, a text or messages, where no known format has it.", show_default=False
        ),
    ] = None,
    response: Annotated[str | None, typer.Option(help="Column of the answer.", show_default=False)] = None,
    algorithm: Annotated[str, typer.Option(help="awq, gptq, or rtn (round to nearest).")] = "awq",
    group_size: Annotated[int, typer.Option(help="Inputs that share one scale: 32, 64 or 128.")] = 128,
    samples: Annotated[int, typer.Option(help="Samples to calibrate on.", min=1)] = 256,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a sample that are used, from its first.", min=1)] = 512,
    held_out: Annotated[int, typer.Option(help="Further samples to measure the error on; 0: none.", min=0)] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the samples' draw.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.", min=0)] = 0,
    python: Annotated[
        Path | None,
        typer.Option(
            help="A Python that has requirements/quantize.txt. Default: that of $SUN_QUANTIZE_PYTHON, or of "
            "`make quantize-env`.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show sizes, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Quantize a model's linear layers to 4 bits (symmetric, in groups); lm_head and embeddings stay whole.

    Writes a compressed-tensors checkpoint (pack-quantized), and shows how far each layer's output moved.

    The work runs in an environment of its own: `make quantize-env`.
    """
    from sun_sglang.files.user_cache import engine_caches
    from sun_sglang.quantize.job import Algorithm

    if algorithm not in get_args(Algorithm):
        raise typer.BadParameter(f"must be one of {', '.join(get_args(Algorithm))}", param_hint="--algorithm")
    if (prompt is None) != (response is None):
        raise typer.BadParameter("give both --prompt and --response, or neither")
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise QuantizeError(f"{', '.join(missing)} cannot be imported; pip install 'sun-sglang[train]'")
    # before the imports that read them: a home may be read-only
    os.environ.update(engine_caches(os.environ))
    from rich.console import Console

    from sun_sglang.cli.display.quantize_view import QuantizeProgress, plan_view, result_views
    from sun_sglang.quantize.calibration import Source
    from sun_sglang.quantize.run import Settings, prepare, quantize

    settings = Settings(
        model=model,
        output=output,
        algorithm=cast("Algorithm", algorithm),
        group_size=group_size,
        calibration=None if calibration is None else Source(calibration, config, split, prompt, response),
        samples=samples,
        held_out=held_out,
        max_tokens=max_tokens,
        seed=seed,
        threads=threads,
        python=python,
    )
    console = Console(stderr=True, highlight=False)
    with console.status("checks the model and the samples"):
        prepared = prepare(settings)
    for note in prepared.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if dry_run:
        if as_json:
            typer.echo(json.dumps(_planned(prepared), indent=2))
        else:
            Console(highlight=False).print(plan_view(prepared))
        return
    with QuantizeProgress(console) as progress:
        result = quantize(prepared, progress.update)
    if as_json:
        typer.echo(json.dumps(_done(prepared, result), indent=2))
        return
    for view in result_views(prepared, result):
        Console(highlight=False).print(view)


def _planned(prepared: Prepared) -> dict[str, Any]:
    settings = prepared.settings
    return {
        "model": str(prepared.source),
        "output": str(settings.output),
        "algorithm": settings.algorithm,
        "group_size": settings.group_size,
        "matrices": len(prepared.plan.matrices),
        "tensor_bytes": prepared.plan.size_before,
        "tensor_bytes_after": prepared.plan.size_after,
        "memory_bytes": prepared.memory,
        "samples": len(prepared.samples.calibration),
        "tokens": prepared.tokens,
        "held_out": len(prepared.samples.held_out),
        "notes": prepared.notes,
    }


def _done(prepared: Prepared, result: Result) -> dict[str, Any]:
    quality = result.quality
    measured = {} if quality is None else quality.model_dump(mode="json")
    return {**_planned(prepared), **asdict(result), "quality": measured or None}
