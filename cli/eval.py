"""`sun eval`: exact match of a task on a file of questions, without servers, on the forward that serving computes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from sun_sglang.errors import RecipeError

EXAMPLE = (
    "sun eval configs/demo/data/math.test.jsonl --prefill configs/demo/models/math --decode configs/demo/models/base"
)


def command(
    file: Annotated[
        Path, typer.Argument(help='JSONL: {"messages": [one user message], "answer": ...} a line.', show_default=False)
    ],
    prefill: Annotated[Path, typer.Option(help="Checkpoint that prefills.", show_default=False)],
    decode: Annotated[Path, typer.Option(help="Checkpoint that decodes.", show_default=False)],
    first_token: Annotated[
        str, typer.Option(help="Who makes it: prefill, decode, or auto (as the tuned checkpoint's sun.json says).")
    ] = "auto",
    limit: Annotated[int, typer.Option(help="Ask this many questions; 0 for all.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves it to torch.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure exact match of a prefill and a decode checkpoint on a local task file, greedy, with a 95 % interval."""
    import torch

    from sun_sglang.train.checkpoint import load_model
    from sun_sglang.train.evaluate import evaluate
    from sun_sglang.train.examples import encode, read_jsonl

    if first_token not in ("auto", "prefill", "decode"):
        raise typer.BadParameter("has to be auto, prefill or decode", param_hint="--first-token")
    if threads:
        torch.set_num_threads(threads)
    first = _first_token(first_token, prefill, decode)
    questions = read_jsonl(file)[: limit or None]
    if not questions:
        raise RecipeError(f"{file}: has no questions")
    models = {path.resolve(): load_model(path) for path in (prefill, decode)}
    tokenizer = _tokenizer(decode)
    encoded = [encode(tokenizer, question) for question in questions]
    result = evaluate(models[prefill.resolve()], models[decode.resolve()], encoded, tokenizer.eos_token_id, first)
    found = {"file": str(file), "prefill": str(prefill), "decode": str(decode), "first_token": first, **asdict(result)}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("prefill", "decode", "first token", "right", "exact match %", "95 % interval")
    interval = f"{result.low} to {result.high}"
    right = f"{result.correct} of {result.total}"
    table.add_row(prefill.name, decode.name, first, right, f"{result.percent}", interval)
    Console(highlight=False).print(table)


def _first_token(wanted: str, *checkpoints: Path) -> Literal["prefill", "decode"]:
    from sun_sglang.train.checkpoint import RECORD, read_record

    if wanted == "auto":
        said = {read_record(path).first_token for path in checkpoints if (path / RECORD).exists()}
        return "decode" if "decode" in said else "prefill"
    return "decode" if wanted == "decode" else "prefill"


def _tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template:
        raise RecipeError(f"{model}: its tokenizer has no chat template")
    return tokenizer
