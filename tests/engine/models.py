"""Small random models for exactness: what they say means nothing, but every weight matters for it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>", "<system>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ARCHITECTURES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
CONTEXT = 2048


def build_models(directory: Path) -> None:
    """Write `{llama,qwen3}-{base,a,b}`: per architecture three unrelated sets of weights, one tokenizer for all."""
    tokenizer = byte_tokenizer()
    for architecture in ARCHITECTURES:
        for seed, name in enumerate(("base", "a", "b")):
            path = directory / f"{architecture}-{name}"
            random_model(architecture, seed, len(tokenizer)).save_pretrained(path)
            tokenizer.save_pretrained(path)


def random_model(architecture: str, seed: int, vocabulary: int) -> torch.nn.Module:
    """Four layers whose initial weights are large enough that logits are far apart."""
    config_class, model_class = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    return model_class(
        config_class(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            tie_word_embeddings=True,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            dtype="float32",
        )
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the special ones."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.chat_template = TEMPLATE
    return fast
