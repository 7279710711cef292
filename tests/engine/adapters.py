"""Random LoRA adapters that change the logits: those of the deployment's tasks, and the model that PEFT makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import ModuleFile, write_module_file


def write_adapter(
    path: Path,
    base: Path,
    seed: int,
    *,
    rank: int = 4,
    targets: str | Sequence[str] = "all-linear",
    layers: Sequence[int] | None = None,
) -> Path:
    """Write a random adapter and return its directory.

    Args:
        path: the directory.
        base: directory of the base.
        seed: of its weights.
        rank: its rank.
        targets: names of the layers that it changes.
        layers: numbers of the blocks that it changes; None for all.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    names = targets if isinstance(targets, str) else list(targets)
    blocks = None if layers is None else list(layers)
    config = LoraConfig(r=rank, lora_alpha=8, target_modules=names, layers_to_transform=blocks, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    model.save_pretrained(path)
    return path


def write_task_adapters(directory: Path, base: Path, decoder: Path) -> None:
    """Write the adapters of the shared deployment's tasks: of other ranks, layers and schemes, and of the same base.

    Args:
        directory: where.
        base: directory of the base.
        decoder: directory of the decoder for which one of them records a tuning.
    """
    from sun_sglang.train.fingerprint import make_fingerprint, write_fingerprint

    write_adapter(directory / "adapter-all", base, 11)
    # without `k_proj`, for which SGLang adds zeros, and without a fingerprint
    write_adapter(directory / "adapter-part", base, 12, rank=7, targets=("q_proj", "v_proj"))
    last = write_adapter(directory / "adapter-last", base, 13, rank=2, targets=("gate_proj", "o_proj"), layers=(1, 3))
    record = ModuleFile(
        scheme="prefill_only", base=weights_revision(base), decoder=weights_revision(decoder), first_token="decode"
    )
    write_module_file(record, last)
    for adapter in (directory / "adapter-all", last):
        write_fingerprint(make_fingerprint(adapter, base), adapter)


def adapted(model: Any, adapter: Path) -> Any:
    """Return a copy of a model with an adapter, as PEFT applies it."""
    from copy import deepcopy

    from peft import PeftModel

    return PeftModel.from_pretrained(deepcopy(model), adapter)
