"""Load and save checkpoints: plain Hugging Face directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.errors import CheckpointError


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path, dtype: torch.dtype) -> str:
    """Write weights in `dtype`, configuration, tokenizer and chat template; gives back the weights' revision.

    The model in memory keeps its own dtype: load the directory again to evaluate what was saved.
    """
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return weights_revision(out)


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
