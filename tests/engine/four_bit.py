"""A checkpoint with 4-bit weights for the tests' deployment, and its dense copy for the reference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

# torch's kernel for CPUs takes 4 bits in groups of 32; one layer of each block has 8 bits and one scale for each row,
# which it does not take
_GROUP_SIZE = 32
_OTHER = "down_proj"


def write_four_bit(model: Path, out: Path) -> None:
    """Write a copy of a model with two kinds of quantised layers."""
    from safetensors.torch import load_file, save_file

    from sun_sglang.packed_weights.checkpoint import write_rounded

    eight_bits = out.with_name(f"{out.name}-8")
    write_rounded(model, out, 4, _GROUP_SIZE)
    write_rounded(model, eight_bits, 8, None)
    tensors, others = (load_file(folder / "model.safetensors") for folder in (out, eight_bits))
    tensors |= {name: tensor for name, tensor in others.items() if f".{_OTHER}." in name}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config, other = (json.loads((folder / "config.json").read_text()) for folder in (out, eight_bits))
    group = other["quantization_config"]["config_groups"]["group_0"] | {"targets": [f"re:.*{_OTHER}"]}
    groups = {"group_1": group, **config["quantization_config"]["config_groups"]}
    config["quantization_config"]["config_groups"] = groups
    (out / "config.json").write_text(json.dumps(config, indent=2))
    shutil.rmtree(eight_bits)


def dense_copy(model: Path) -> Path:
    """Return the directory of a quantised model's dense copy; the first call writes it."""
    import torch
    from safetensors.torch import save_file

    from sun_sglang.packed_weights.checkpoint import dense_config, dense_tensors

    out = model.resolve().with_name(f"{model.name}-dense")
    if not out.exists():
        shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.safetensors"))
        (out / "config.json").write_text(json.dumps(dense_config(model)))
        save_file(dict(dense_tensors(model, torch.float32)), out / "model.safetensors", metadata={"format": "pt"})
    return out
