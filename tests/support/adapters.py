"""Small LoRA adapters, and bases for them, as files: their weights are bytes, and no tensor library writes them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sun_sglang.contracts.adapter import FINGERPRINT_FILE

HIDDEN, KV, INNER, VOCABULARY = 8, 4, 12, 64
# sizes of output and input of each linear layer of a block
SIZES: Mapping[str, tuple[int, int]] = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
BLOCKS = 2
Shapes = Mapping[str, tuple[int, ...]]


def adapter_shapes(
    *, rank: int = 2, modules: Iterable[str] = SIZES, blocks: Iterable[int] = range(BLOCKS)
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's tensors by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block in blocks:
        for module in modules:
            outputs, inputs = SIZES[module]
            start = f"base_model.model.model.layers.{block}.{module}"
            shapes[f"{start}.lora_A.weight"] = (rank, inputs)
            shapes[f"{start}.lora_B.weight"] = (outputs, rank)
    return shapes


def write_adapter(
    directory: Path,
    *,
    rank: int = 2,
    fill: int = 1,
    modules: Iterable[str] = tuple(SIZES),
    shapes: Shapes | None = None,
    config: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adapter and return its directory.

    Args:
        directory: where; it is created.
        rank: its rank.
        fill: the byte of all its weights: another one makes another revision.
        modules: the layers that it changes in each block.
        shapes: its tensors; None for those of `modules` in every block.
        config: keys of `adapter_config.json` to change; None removes one.
        record: the content of `sun.json`; None writes none.
        fingerprint: the content of `fingerprint.json`; None writes none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        **(config or {}),
    }
    (directory / "adapter_config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    given = adapter_shapes(rank=rank, modules=modules) if shapes is None else shapes
    (directory / "adapter_model.safetensors").write_bytes(weights(given, fill))
    for name, content in (("sun.json", record), (FINGERPRINT_FILE, fingerprint)):
        if content is not None:
            (directory / name).write_text(json.dumps(content))
    return directory


def write_base(directory: Path, *, config: Mapping[str, Any] | None = None, fill: int = 0) -> Path:
    """Write a checkpoint with the layers that `write_adapter` changes, and return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_size": HIDDEN,
        "vocab_size": VOCABULARY,
        "rope_theta": 10000.0,
        "dtype": "float32",
        **(config or {}),
    }
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "tokenizer.json").write_text('{"model": "words"}')
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for block in range(BLOCKS):
        shapes[f"model.layers.{block}.input_layernorm.weight"] = (HIDDEN,)
        shapes |= {f"model.layers.{block}.{module}.weight": size for module, size in SIZES.items()}
    (directory / "model.safetensors").write_bytes(weights(shapes, fill))
    return directory


def weights(shapes: Shapes, fill: int = 0, dtype: str = "F32", width: int = 4) -> bytes:
    """Return a safetensors file of tensors of one byte."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        size = width
        for part in shape:
            size *= part
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes([fill]) * offset
