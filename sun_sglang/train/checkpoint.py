"""Load and save checkpoints: plain Hugging Face directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from sun_sglang.checkpoint.config_file import require_no_adapter
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.errors import CheckpointError
from sun_sglang.train.quantized.load_quantized import load_quantized
from sun_sglang.train.quantized.supported import is_quantized


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path, dtype: torch.dtype) -> str:
    """Write weights, configuration, tokenizer and chat template, and return the revision of the weights.

    The model in memory keeps its dtype; load the directory again to evaluate the saved weights.

    Args:
        model: the model.
        tokenizer: its tokenizer, with the chat template.
        out: the directory.
        dtype: dtype of the saved weights.
    """
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return weights_revision(out)


def load_model(model: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Return the causal LM of a checkpoint, in evaluation mode; that of a quantised one keeps packed, frozen weights.

    Args:
        model: directory of the checkpoint.
        dtype: dtype of the weights; of a quantised checkpoint, those that are not quantised.

    Raises:
        CheckpointError: the directory has no `config.json` or holds an adapter, its files lack a tensor, or training
            does not support its quantization.
    """
    require_no_adapter(model)
    if not (model / "config.json").exists():
        raise CheckpointError(f"{model}: no config.json; is this a model directory?")
    if is_quantized(model):
        return load_quantized(model, dtype)
    logging.disable_progress_bar()
    try:
        # a mismatch would be an error of hundreds of lines
        loaded, report = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, SafetensorError) as e:
        raise CheckpointError(f"{model}: its weights cannot be loaded ({e})") from e
    # transformers gives these random values and warns
    lost = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if lost:
        raise CheckpointError(
            f"{model}: no file holds `{lost[0]}` with the shape that its config.json requires"
            + (f" ({len(lost)} such tensors)" if len(lost) > 1 else "")
        )
    return loaded.eval()


def load_tokenizer(model: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a checkpoint."""
    return PreTrainedTokenizerFast.from_pretrained(model)
