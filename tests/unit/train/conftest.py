from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sun_sglang.train.tokenizer import VOCAB_SIZE

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM  # isort: skip

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["qwen3", "llama"])
def new_model(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    """Makes a small float64 model of either architecture from a seed."""

    def build(seed: int) -> Any:
        torch.manual_seed(seed)
        if request.param == "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**SIZES)).double()
        return LlamaForCausalLM(LlamaConfig(**SIZES)).double()

    return build
