"""`sun fingerprint`: record the effect of a LoRA adapter, for the router's check of workers."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from sun_sglang.errors import UserError

EXAMPLE = "sun fingerprint adapters/sql --base models/base"
_NEEDED = ("torch", "transformers", "peft", "safetensors")


def command(
    adapter: Annotated[Path, typer.Argument(help="Directory of a LoRA adapter.", show_default=False)],
    base: Annotated[
        str,
        typer.Option(
            help="Directory of the model that it was tuned on, or the id of one in the Hugging Face cache.",
            show_default=False,
        ),
    ],
    again: Annotated[bool, typer.Option("--again", help="Replace a fingerprint that is there already.")] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write `fingerprint.json` beside a LoRA adapter: its effect on the log probabilities of a fixed prompt.

    The router compares it with what a worker computes before it serves a task with the adapter. Without one the router
    only requires that the adapter changes something. `sun train` writes it by itself.
    """
    from sun_sglang.checkpoint.locate import find_checkpoint
    from sun_sglang.contracts.adapter import FINGERPRINT_FILE
    from sun_sglang.files.user_cache import engine_caches

    path = adapter / FINGERPRINT_FILE
    if os.path.lexists(path) and not again:
        raise UserError(f"{path}: exists already; pass --again to replace it")
    found = find_checkpoint(base)
    if found is None:
        raise UserError(f"--base: `{base}` is neither a directory nor a model in the Hugging Face cache")
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)} cannot be imported; pip install 'sun-sglang[train]'")
    # before the imports that read them: a home may be read-only
    os.environ.update(engine_caches(os.environ))
    import torch

    from sun_sglang.train.fingerprint import make_fingerprint, write_fingerprint

    if threads:
        torch.set_num_threads(threads)
    fingerprint = make_fingerprint(adapter.resolve(), found)
    try:
        write_fingerprint(fingerprint, adapter)
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e})") from e
    effect = fingerprint.effect
    if as_json:
        typer.echo(json.dumps({"file": str(path), "tokens": len(fingerprint.tokens), "effect": effect}, indent=2))
    else:
        typer.echo(f"wrote {path}: the adapter changes log probabilities by {effect:.3g} (root mean square)")
