"""A checkpoint that transformers loaded and saved again pairs with the original, which version 4 wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel

import sun_sglang.train  # noqa: F401 - makes transformers importable on a machine without a GPU
from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.contracts.kv_compatibility import pair_difference

# after sun_sglang.train
from transformers import AutoConfig, AutoTokenizer  # isort: skip

SIZES = {"num_hidden_layers": 2, "vocab_size": 512, "torch_dtype": "bfloat16"}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, **SIZES}
LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
YARN = {"type": "yarn", "factor": 40, "mscale": 1.0, "original_max_position_embeddings": 4096}
CONFIGS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"model_type": "llama", "rope_theta": 10000, **HEADS},
    "Llama31": {
        "model_type": "llama",
        "rope_theta": 500000,
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8192},
        **HEADS,
    },
    "Qwen3ForCausalLM": {"model_type": "qwen3", "rope_theta": 1000000, "head_dim": 16, **HEADS},
    "Glm4ForCausalLM": {
        "model_type": "glm4",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "head_dim": 16,
        **HEADS,
    },
    "Gemma3ForCausalLM": {
        "model_type": "gemma3_text",
        "rope_theta": 1000000,
        "rope_local_base_freq": 10000,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "head_dim": 16,
        **HEADS,
    },
    "DeepseekV3ForCausalLM": {
        "model_type": "deepseek_v3",
        "rope_theta": 10000,
        "rope_scaling": YARN,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 8,
        **HEADS,
    },
    "GptOssForCausalLM": {
        "model_type": "gpt_oss",
        "rope_theta": 150000,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
        "head_dim": 16,
        **HEADS,
    },
}
Write = Callable[..., Path]
# how Qwen2Tokenizer splits text, which version 5 writes for every tokenizer of this class
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_configuration_that_was_saved_again_pairs_with_the_original(
    write_checkpoint: Write, tmp_path: Path, architecture: str
) -> None:
    original = write_checkpoint("original")
    (original / "config.json").write_text(json.dumps({"architectures": [architecture], **CONFIGS[architecture]}))
    again = write_checkpoint("again")
    AutoConfig.from_pretrained(original).save_pretrained(again)
    assert (again / "config.json").read_bytes() != (original / "config.json").read_bytes()
    assert pair_difference(read_identity(original, {}), read_identity(again, {})) is None


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_tokenizer_that_was_saved_again_pairs_with_the_original(write_checkpoint: Write, kind: str) -> None:
    original = write_old_tokenizer(write_checkpoint("original", {"model_type": "llama"}), kind)
    again = write_checkpoint("again", {"model_type": "llama"})
    tokenizer = AutoTokenizer.from_pretrained(original)
    tokenizer(["a", "the in"], padding=True, truncation=True, max_length=5)
    tokenizer.save_pretrained(again)
    saved = json.loads((again / "tokenizer.json").read_text())
    assert saved["model"]["merges"][0] == ["t", "h"], "version 5 writes pairs"
    assert [saved["padding"], saved["truncation"]] != [None, None]
    assert len(saved["added_tokens"]) == 3, "with the one that stood in the settings"
    assert pair_difference(read_identity(original, {}), read_identity(again, {})) is None


def write_old_tokenizer(model: Path, kind: str) -> Path:
    """Give a checkpoint a byte-level BPE tokenizer as version 4 wrote it, with a token that stands in its settings."""
    pairs = [("t", "h"), ("th", "e"), ("i", "n")]
    tokens = [*sorted(ByteLevel.alphabet()), *(left + right for left, right in pairs)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"content": content, **flags, "special": content != "<call>"}
        for content in ("<|endoftext|>", "<pad>", "<call>")
    ]
    numbered = {len(tokens) + number: token for number, token in enumerate(added)}
    listed = [{"id": number, **token} for number, token in numbered.items() if token["special"]]
    bpe = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": [" ".join(pair) for pair in pairs],
    }
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": listed,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_alone]},
        "post_processor": bytes_alone,
        "decoder": bytes_alone,
        "model": bpe,
    }
    settings = {
        "tokenizer_class": kind,
        "eos_token": "<|endoftext|>",
        "pad_token": "<pad>",
        "added_tokens_decoder": {str(number): token for number, token in numbered.items()},
        "chat_template": "{{ messages }}",
    }
    (model / "tokenizer.json").write_text(json.dumps(content))
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "chat_template.jinja").unlink()
    return model
