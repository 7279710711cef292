"""Checkpoints: plain Hugging Face directories, and beside a tuned one's weights the record of what it was tuned for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from sun_sglang.checkpoint.identity import weights_revision
from sun_sglang.errors import CheckpointError
from sun_sglang.train.objective.two_module import FirstToken, Scheme

RECORD = "sun.json"


@dataclass(frozen=True)
class TuningRecord:
    """What a tuned checkpoint may be served with.

    Attributes:
        scheme: which side was trained.
        base: revision of the weights it started from.
        decoder: revision of the weights it has to be decoded with.
        first_token: who makes the first output token.
        command: what made it.
        seed: of data and order.
        learning_rate: the one that did best on the validation split.
        recipe: what it was tuned by, if by a recipe.
    """

    scheme: Scheme
    base: str
    decoder: str
    first_token: FirstToken
    command: str
    seed: int
    learning_rate: float
    recipe: dict[str, Any] | None = None


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path, dtype: torch.dtype) -> str:
    """Write weights in `dtype`, configuration, tokenizer and chat template; gives back the weights' revision.

    The model in memory keeps its own dtype: load the directory again to evaluate what was saved.
    """
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return weights_revision(out)


def save_record(record: TuningRecord, out: Path) -> None:
    """Write `sun.json` beside the weights."""
    content = {key: value for key, value in asdict(record).items() if value is not None}
    (out / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_record(model: Path) -> TuningRecord:
    """The record of a tuned checkpoint.

    Raises:
        CheckpointError: there is none, or it is not one.
    """
    path = model / RECORD
    try:
        return TuningRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as e:
        raise CheckpointError(f"{path}: not found; only a tuned checkpoint has one") from e
    except (OSError, ValueError, TypeError) as e:
        raise CheckpointError(f"{path}: is not a tuning record ({e})") from e


def load_model(model: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The causal LM of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: the directory holds no such model.
    """
    if not (model / "config.json").exists():
        raise CheckpointError(f"{model}: no config.json; is this a model directory?")
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()


def load_tokenizer(model: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint."""
    return PreTrainedTokenizerFast.from_pretrained(model)
