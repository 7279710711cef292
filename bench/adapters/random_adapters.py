"""Random LoRA adapters: they change its answers and mean nothing, which is enough to measure time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import typer
from rich.console import Console

from sun_sglang.checkpoint.adapter.base_fit import read_base_layers
from sun_sglang.errors import UserError

Sizes: TypeAlias = Mapping[str, tuple[int, int]]
"""Sizes of output and input of each changed layer, by its place (`layers.0.self_attn.q_proj`)."""

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
# of an entry of B; with the A of PEFT's start an update is then a few percent of the weights
_B_STD = 0.02


def layer_sizes(base: Path) -> Sizes:
    """Return the sizes of the layers that the adapters of a base change.

    Raises:
        CheckpointError: the base cannot be read.
    """
    layers = read_base_layers(base).sizes
    return {place: size for place, size in layers.items() if size and place.rpartition(".")[2] in TARGETS}


def sizes_or_exit(base: Path, console: Console) -> Sizes:
    """Return `layer_sizes` of a base, for a program.

    Raises:
        Exit: the base cannot be read; the console has the error.
    """
    try:
        return layer_sizes(base)
    except UserError as e:
        console.print(f"[bold red]error:[/] {e}")
        raise typer.Exit(1) from e


def plain_sizes(blocks: int, width: int) -> Sizes:
    """Return the sizes of square layers in some blocks: for workers without a model, which only read the files."""
    return {f"layers.{block}.self_attn.{name}": (width, width) for block in range(blocks) for name in TARGETS}


def write_adapters(sizes: Sizes, directory: Path, count: int, *, rank: int) -> list[Path]:
    """Write adapters `t000`, `t001`, ... in PEFT's format, each where it does not exist yet, and return their folders.

    Adapter N is the same whatever their number is. Weights are bfloat16.

    Args:
        sizes: the layers that they change.
        directory: their folder.
        count: their number.
        rank: rank of every layer.
    """
    folders = [directory / f"t{number:03}" for number in range(count)]
    for number, folder in enumerate(folders):
        weights = folder / "adapter_model.safetensors"
        if not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            config = {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": rank,
                "lora_alpha": 2 * rank,
                "target_modules": list(TARGETS),
            }
            (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
            # last and whole: a folder with weights is complete
            part = weights.with_suffix(".part")
            _write_weights(part, sizes, rank, number)
            part.rename(weights)
    return folders


def _write_weights(file: Path, sizes: Sizes, rank: int, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for place, (outputs, inputs) in sizes.items():
        start = f"base_model.model.model.{place}"
        down = (torch.rand(rank, inputs, generator=generator) * 2 - 1) / inputs**0.5
        up = torch.randn(outputs, rank, generator=generator) * _B_STD
        tensors[f"{start}.lora_A.weight"] = down.to(torch.bfloat16)
        tensors[f"{start}.lora_B.weight"] = up.to(torch.bfloat16)
    save_file(tensors, file)
