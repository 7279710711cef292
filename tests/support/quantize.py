"""A small model that every group size fits, and samples to calibrate it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sun_sglang.demo.tasks import order
from sun_sglang.demo.tokenizer import VOCAB_SIZE, build_tokenizer
from sun_sglang.train.data.examples import draw, write_jsonl

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import LlamaConfig, LlamaForCausalLM  # isort: skip

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "initializer_range": 0.05,
    "tie_word_embeddings": True,
}
ROWS = 40


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16, with `chats.jsonl` of 40 rows in it."""
    directory = tmp_path_factory.mktemp("source")
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(**SIZES, eos_token_id=tokenizer.eos_token_id)
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_jsonl(directory / "chats.jsonl", draw(order, "train", ROWS, 0))
    return directory


def arguments(source: Path, output: Path, *more: str) -> list[str]:
    """Return the arguments of a `sun quantize` of the model's own samples."""
    chats = ["--calibration", str(source / "chats.jsonl"), "--prompt", "messages", "--response", "answer"]
    return ["quantize", str(source), "--output", str(output), *chats, "--samples", "16", "--held-out", "4", *more]
