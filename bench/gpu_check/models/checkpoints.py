"""Small random checkpoints with real models' head sizes; answers have no meaning and depend on every weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPECIAL = ("<pad>", "<end>", "<user>", "<assistant>", "<system>")
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
BYTE_VOCABULARY = len(SPECIAL) + 256
# a multiple of 8, which a GPU's matrix units take
VOCABULARY = BYTE_VOCABULARY + 3
CONTEXT = 4096
WINDOW = 32

_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    # larger weights amplify what bfloat16 rounds away; with smaller ones answers repeat a few tokens
    "initializer_range": 0.05,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
_GROUPED: Mapping[str, Any] = {"num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True}
# transformers' configuration class, and what differs from `_COMMON`; some keys are there for SGLang alone
ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED),
    "qwen3": ("Qwen3Config", _GROUPED),
    # multi-head latent attention, with DeepSeek's own sizes a head; every layer is dense
    "deepseek": (
        "DeepseekV3Config",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 256,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
            "first_k_dense_replace": 4,
            "n_routed_experts": 8,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
            "moe_layer_freq": 1,
            "tie_word_embeddings": False,
        },
    ),
    # every second layer attends to a window of 32 tokens
    "gpt-oss": (
        "GptOssConfig",
        {
            "num_key_value_heads": 2,
            "head_dim": 64,
            "num_local_experts": 2,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
            "swiglu_limit": 7.0,
            "tie_word_embeddings": False,
        },
    ),
    # three layers with a recurrent state, one with attention
    "qwen3-next": (
        "Qwen3NextConfig",
        {
            "num_key_value_heads": 2,
            "head_dim": 128,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "full_attention_interval": 4,
            # SGLang gives every layer experts; a token goes to all of them, so that rounding changes no route
            "num_experts": 2,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 256,
            "tie_word_embeddings": False,
        },
    ),
}


def write_checkpoint(path: Path, architecture: str, seed: int, dtype: str, **sizes: Any) -> None:
    """Write a random checkpoint with a byte tokenizer.

    Args:
        path: the checkpoint's directory.
        architecture: a key of `ARCHITECTURES`.
        seed: seed of the weights.
        dtype: dtype of the weights, such as `bfloat16`.
        sizes: keys of the configuration that differ from `ARCHITECTURES`.
    """
    import torch
    import transformers

    config_class, own = ARCHITECTURES[architecture]
    values = {**_COMMON, **own, **sizes}
    config = getattr(transformers, config_class)(**values, dtype=dtype)
    for key in values.keys() - vars(config).keys():
        setattr(config, key, values[key])  # transformers drops keys that it does not use; SGLang reads them
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    if architecture == "deepseek":
        _share_expansion(model)
    model.to(getattr(torch, dtype)).save_pretrained(path)
    byte_tokenizer(config.vocab_size - BYTE_VOCABULARY).save_pretrained(path)


def byte_tokenizer(unused: int = 0) -> Any:
    """Return a tokenizer with special tokens, a token for each byte, and `unused` tokens that no text produces."""
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from sun_sglang.demo.tokenizer import byte_level_bpe

    extra = [f"<unused{i}>" for i in range(unused)]
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *extra]
    tokenizer = byte_level_bpe(words, [*SPECIAL, *extra])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.chat_template = TEMPLATE
    return fast


def _share_expansion(model: Any) -> None:
    """Give every checkpoint the same `kv_b_proj`.

    A worker's cache holds the compressed latent, which the decode module expands with its own weights; transformers
    caches what the prefill module expanded. The two agree where both modules expand alike.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "kv_b_proj" in name:
            with torch.no_grad():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
