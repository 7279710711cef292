"""The two checkpoints of an evaluation without servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.completeness.require_complete import require_complete
from sun_sglang.contracts.module_file import read_module_file
from sun_sglang.contracts.scheme import Side
from sun_sglang.errors import CheckpointError, RecipeError


def require_pair(prefill: Path, decode: Path) -> list[str]:
    """Check both checkpoints, and return what could not be checked.

    Raises:
        CheckpointError: one is no directory, or lacks a tensor.
    """
    return list(_unchecked(("--prefill", prefill), ("--decode", decode)))


def _unchecked(*given: tuple[str, Path]) -> Iterator[str]:
    for option, path in given:
        if not path.is_dir():
            raise CheckpointError(f"{option}: {path} is not a directory")
        try:
            if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
                reason = "its weights are pickled"
            else:
                reason = require_complete(path)
        except CheckpointError as e:
            raise CheckpointError(f"{option}: {e}") from e
        if reason:
            yield f"{option}: {path}: tensors are checked only while they load ({reason})"


def recorded_first_token(*checkpoints: Path) -> Side:
    """Return the side that makes the first token, as the `sun.json` of a tuned checkpoint records it."""
    recorded = {file.first_token for path in checkpoints if (file := read_module_file(path)) is not None}
    return "decode" if "decode" in recorded else "prefill"


def load_tokenizer(model: Path) -> Any:
    """Return the tokenizer of a checkpoint, with its chat template.

    Raises:
        CheckpointError: it cannot be loaded.
        RecipeError: it has no chat template or no end-of-text token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception as e:  # a broken file raises another type in each tokenizer class
        raise CheckpointError(f"{model}: its tokenizer cannot be loaded ({e})") from e
    if isinstance(tokenizer.chat_template, dict):
        # serving takes the first of several
        tokenizer.chat_template = next(iter(tokenizer.chat_template.values()))
    if not tokenizer.chat_template:
        raise RecipeError(f"{model}: its tokenizer has no chat template")
    if tokenizer.eos_token_id is None:
        raise RecipeError(f"{model}: its tokenizer has no end-of-text token, and every answer ends with one")
    return tokenizer
