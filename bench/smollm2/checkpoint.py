"""A plain float32 checkpoint from a GGUF file.

The file has four-bit blocks (Q4_1; the embedding Q8_0). float32 holds their values exactly. bfloat16 would take half
the disk, and would round both them and the tasks' updates: a merged module would then differ from its adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
from transformers.utils import logging

from sun_sglang.bench.smollm2.errors import ModelError

END = "<|im_end|>"
"""Ends a turn of the chat template, and so an answer."""


def write_checkpoint(gguf: Path, out: Path) -> None:
    """Write weights, configuration, tokenizer and chat template of a GGUF file.

    Args:
        gguf: the file.
        out: the new directory.

    Raises:
        ModelError: the file is no language model with a chat template and the end token.
        OSError: the directory cannot be written.
    """
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        # without `dequantize` the blocks stay packed, and such a model cannot be saved
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, KeyError, RuntimeError, ImportError) as e:
        raise ModelError(f"{gguf.name}: transformers cannot read it ({e}); install the pinned packages (`make`)") from e
    end = tokenizer.get_vocab().get(END)
    if end is None or not tokenizer.chat_template:
        raise ModelError(f"{gguf.name}: has no token {END} or no chat template; pin the model that has them")
    _set_end(model, tokenizer, end)
    # the file's title, which is no path
    vars(model.config).pop("_model_name_or_path", None)
    # transformers takes GPT-2's; the file states SmolLM's (`tokenizer.ggml.pre`), which also splits numbers into digits
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _set_end(model: Any, tokenizer: Any, end: int) -> None:
    """Make `END` the end token of configuration, generation and tokenizer, and the padding."""
    tokenizer.eos_token = tokenizer.pad_token = END
    model.config.eos_token_id = model.config.pad_token_id = end
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=end, pad_token_id=end
    )
