"""Quantised copies of a checkpoint: 4-bit weights beside the plain weights of the same values, and 8-bit KV."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GROUP = 128
_BITS = 4
_EIGHT_BIT_KV: Mapping[str, Any] = {
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {},
    "kv_cache_scheme": {"type": "float", "num_bits": 8, "strategy": "tensor", "symmetric": True, "dynamic": False},
}


def write_four_bit(source: Path, packed: Path, rounded: Path) -> None:
    """Round a checkpoint's projections to 4 bits (symmetric, groups of 128) and write it twice.

    Args:
        source: the checkpoint.
        packed: gets the compressed-tensors checkpoint that workers load.
        rounded: gets a plain checkpoint with the same values, for the reference.
    """
    from safetensors.torch import save_file

    from sun_sglang.packed_weights.checkpoint import dense_tensors, write_rounded

    shutil.rmtree(packed, ignore_errors=True)
    write_rounded(source, packed, _BITS, _GROUP)
    shutil.copytree(source, rounded, dirs_exist_ok=True)
    save_file(dict(dense_tensors(packed)), rounded / "model.safetensors", metadata={"format": "pt"})


def write_scaled(source: Path, target: Path, scale: float) -> None:
    """Copy a checkpoint as one whose KV has 8 bits, with one scale for all layers.

    Args:
        source: the checkpoint.
        target: its copy.
        scale: of keys and of values.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, dirs_exist_ok=True)
    tensors = load_file(source / "model.safetensors")
    layers = {name.rpartition(".self_attn.")[0] for name in tensors if ".self_attn." in name}
    scales = {f"{layer}.self_attn.{side}_scale": torch.tensor(scale) for layer in layers for side in "kv"}
    save_file(tensors | scales, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": _EIGHT_BIT_KV}, indent=2))
