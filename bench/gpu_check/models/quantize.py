"""Quantised copies of a checkpoint: 4-bit weights beside the plain weights of the same values, and 8-bit KV."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GROUP = 128
_BITS = 4
_MOST = 2 ** (_BITS - 1) - 1
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# as llmcompressor writes it
FOUR_BIT: Mapping[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": _BITS,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": _GROUP,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
        }
    },
}
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
    import torch
    from safetensors.torch import load_file, save_file

    for target in (packed, rounded):
        shutil.copytree(source, target, dirs_exist_ok=True)
    stored, plain = {}, {}
    for name, weight in load_file(source / "model.safetensors").items():
        module, _, kind = name.rpartition(".")
        if kind != "weight" or not module.endswith(_PROJECTIONS):
            stored[name] = plain[name] = weight
            continue
        groups = weight.float().reshape(weight.shape[0], -1, _GROUP)
        scale = (groups.abs().amax(dim=2) / _MOST).clamp(min=1e-8).to(weight.dtype)
        steps = (groups / scale.float().unsqueeze(2)).round().clamp(-_MOST - 1, _MOST)
        plain[name] = (steps * scale.float().unsqueeze(2)).flatten(1).to(weight.dtype)
        stored[f"{module}.weight_packed"] = _pack(steps.flatten(1))
        stored[f"{module}.weight_scale"] = scale
        stored[f"{module}.weight_shape"] = torch.tensor(weight.shape)
    save_file(stored, packed / "model.safetensors", metadata={"format": "pt"})
    save_file(plain, rounded / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": FOUR_BIT}, indent=2))


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


def _pack(steps: Any) -> Any:
    """Pack rows of 4-bit integers, -8 to 7, eight to an int32, the first one lowest (compressed-tensors' layout)."""
    import torch

    nibbles = (steps.long() + _MOST + 1).reshape(steps.shape[0], -1, 32 // _BITS)
    words = (nibbles << (_BITS * torch.arange(32 // _BITS))).sum(dim=2)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()
