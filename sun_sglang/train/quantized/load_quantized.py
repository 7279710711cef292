"""Load a quantised checkpoint as transformers' model, with `PackedLinear` in place of its quantised layers."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sun_sglang.checkpoint.tensor_file import parse_header, read_header, safetensors_of
from sun_sglang.errors import CheckpointError
from sun_sglang.packed_weights.checkpoint import packed_layers
from sun_sglang.packed_weights.layer import PackedLayer
from sun_sglang.packed_weights.names import PARTS, SHAPE
from sun_sglang.train.quantized.packed_linear import PackedLinear
from sun_sglang.train.quantized.supported import require_supported


def load_quantized(model: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Return the causal LM of a quantised checkpoint, frozen and in evaluation mode. Its weights stay packed.

    Args:
        model: directory of the checkpoint.
        dtype: dtype of the tensors that are not quantised, such as embeddings and norms.

    Raises:
        CheckpointError: the quantization is not supported; or the files lack a tensor, or hold one of another shape or
            one that no layer has.
    """
    require_supported(model)
    config = AutoConfig.from_pretrained(model)
    # it would make transformers quantise the model itself
    del config.quantization_config
    with init_empty_weights(include_buffers=False):
        built: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    rest = dict(_plain_tensors(model, dtype))
    layers = {name: layer for name, layer in built.named_modules() if isinstance(layer, nn.Linear)}
    for name, packed in packed_layers(model):
        if name not in layers:
            raise CheckpointError(f"{model}: `{name}` is quantised, and is no linear layer of {type(built).__name__}")
        bias = rest.pop(f"{name}.bias", None) if layers[name].bias is not None else None
        built.set_submodule(name, PackedLinear(_fitting(model, name, packed, layers[name]), bias))
    _load_plain(model, built, rest)
    return built.requires_grad_(False).eval()


def held_bytes(model: Path, width: int) -> int:
    """Return the bytes of the tensors that `load_quantized` keeps in memory, from the headers of the files.

    Args:
        model: directory of the checkpoint.
        width: bytes of a value that is not quantised.

    Raises:
        CheckpointError: a file cannot be read.
    """
    held = 0
    for path in safetensors_of(model):
        try:
            with path.open("rb") as file:
                tensors = parse_header(read_header(file))
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{path}: cannot be read ({e})") from e
        for name, tensor in tensors.items():
            part = name.rpartition(".")[2]
            if part not in PARTS:
                held += prod(tensor.shape) * width
            elif part != SHAPE:
                held += tensor.end - tensor.start
    return held


def _plain_tensors(model: Path, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that belong to no packed weight."""
    for path in safetensors_of(model):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 # a safetensors file is not a mapping
                    if name.rpartition(".")[2] not in PARTS:
                        yield name, file.get_tensor(name).to(dtype)
        except (OSError, SafetensorError) as e:
            raise CheckpointError(f"{path}: cannot be read ({e})") from e


def _fitting(model: Path, name: str, packed: PackedLayer, layer: nn.Linear) -> PackedLayer:
    if (packed.rows, packed.columns) != (layer.out_features, layer.in_features):
        raise CheckpointError(
            f"{model}: `{name}` holds {packed.rows} x {packed.columns} weights, and config.json requires "
            f"{layer.out_features} x {layer.in_features}; use the config.json that belongs to these weights"
        )
    if not bool(packed.scales.float().isfinite().all()):
        raise CheckpointError(f"{model}: a scale of `{name}` is NaN or infinite; quantise the model again")
    return packed


def _load_plain(model: Path, built: Any, stored: dict[str, torch.Tensor]) -> None:
    """Load the tensors that are not quantised."""
    tied = getattr(built, "all_tied_weights_keys", None) or {}
    needed = {name: p for name, p in built.named_parameters(remove_duplicate=False) if name not in tied}
    for name, parameter in needed.items():
        if name not in stored or stored[name].shape != parameter.shape:
            raise CheckpointError(f"{model}: no file holds `{name}` with the shape that its config.json requires")
    unknown = sorted(stored.keys() - needed.keys() - tied.keys())
    if unknown:
        raise CheckpointError(f"{model}: holds `{unknown[0]}`, which {type(built).__name__} does not have")
    built.load_state_dict({name: stored[name] for name in needed}, strict=False, assign=True)
    built.tie_weights()
    assert not any(p.is_meta for p in built.parameters()), "every parameter is loaded or tied"
