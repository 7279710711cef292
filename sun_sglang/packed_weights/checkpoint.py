"""Read a quantised checkpoint as dense tensors, and write a rounded copy of a dense checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.tensor_file import safetensors_of
from sun_sglang.errors import CheckpointError
from sun_sglang.packed_weights.layer import PackedLayer, pack_rounded, packed_layer
from sun_sglang.packed_weights.names import PACKED, PARTS
from sun_sglang.packed_weights.rounding import round_to_nearest

_CONFIG = "config.json"
# `compression_config` is the name of older files
_QUANTIZATION = ("quantization_config", "compression_config")


def is_packed(model: Path) -> bool:
    """Return whether a checkpoint's configuration says that its weights are packed integers.

    Raises:
        CheckpointError: it has no readable `config.json`.
    """
    config = read_json(model / _CONFIG)
    found: dict[str, Any] = next((config[key] for key in _QUANTIZATION if isinstance(config.get(key), dict)), {})
    groups = found.get("config_groups")
    # a list, as values from a file may be of any type
    formats = (
        [part.get("format") for part in (found, *groups.values()) if isinstance(part, dict)]
        if isinstance(groups, dict)
        else []
    )
    return found.get("quant_method") == "compressed-tensors" and "pack-quantized" in formats


def packed_layers(model: Path) -> Iterator[tuple[str, PackedLayer]]:
    """Yield the name and tensors of each quantised layer of a checkpoint.

    Raises:
        CheckpointError: a file cannot be read, or a layer's tensors do not fit each other.
    """
    tensors = _Tensors(model)
    for prefix in tensors.packed():
        yield prefix, _layer(tensors, prefix, model)


def dense_tensors(model: Path, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and value of each tensor that the unquantised model has, one tensor at a time.

    Args:
        model: directory of a checkpoint, quantised or not.
        dtype: type of floating-point tensors; None keeps the stored type, and that of the scales.

    Raises:
        CheckpointError: a file cannot be read, or a layer's tensors do not fit each other.
    """
    tensors = _Tensors(model)
    packed = tensors.packed()
    parts = {f"{prefix}.{part}" for prefix in packed for part in PARTS}
    for name in tensors.names():
        if name not in parts:
            tensor = tensors[name]
            yield name, tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
    for prefix in packed:
        layer = _layer(tensors, prefix, model)
        yield f"{prefix}.weight", layer.dense(dtype or layer.scales.dtype)


def dense_config(model: Path) -> dict[str, Any]:
    """Return `config.json` without its quantization: the configuration of the tensors of `dense_tensors`.

    Raises:
        CheckpointError: it has no readable `config.json`.
    """
    return {key: value for key, value in read_json(model / _CONFIG).items() if key not in _QUANTIZATION}


def write_rounded(model: Path, out: Path, num_bits: int = 4, group_size: int | None = 128) -> None:
    """Write a copy of a checkpoint with the linear layers of its decoder layers rounded to the nearest integers.

    Embeddings, norms, biases and `lm_head` keep their values.

    Args:
        model: directory of a dense checkpoint.
        out: directory to write; must not exist.
        num_bits: bits of one integer, 2 to 8.
        group_size: inputs that share a scale; None for one scale for each row.

    Raises:
        CheckpointError: the model is quantised already, `out` exists, or a group does not divide a layer.
    """
    if is_packed(model):
        raise CheckpointError(f"{model}: is quantised already")
    if out.exists():
        raise CheckpointError(f"{out}: exists already; remove it, or choose another directory")
    tensors = _Tensors(model)
    chosen = [name for name in tensors.names() if _is_linear(name) and tensors.shape(name)[1:]]
    for name in chosen:
        columns = tensors.shape(name)[1]
        if columns % (group_size or columns):
            raise CheckpointError(f"{name}: {columns} inputs are no multiple of the group size {group_size}")
    written: dict[str, torch.Tensor] = {}
    for name in tensors.names():
        if name in chosen:
            layer = pack_rounded(round_to_nearest(tensors[name], num_bits, group_size))
            written |= layer.tensors(name.removesuffix(".weight"))
        else:
            written[name] = tensors[name]
    weights = {path.name for path in safetensors_of(model)} | {"model.safetensors.index.json"}
    shutil.copytree(model, out, ignore=lambda _, names: weights & set(names))
    config = {**read_json(model / _CONFIG), "quantization_config": packed_format(num_bits, group_size)}
    (out / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # last: a directory without weights is no checkpoint
    save_file(written, out / "model.safetensors", metadata={"format": "pt"})


def packed_format(num_bits: int, group_size: int | None) -> dict[str, Any]:
    """Return the `quantization_config` of symmetric packed weights as llmcompressor writes it.

    Args:
        num_bits: bits of one integer.
        group_size: inputs that share a scale; None for one scale for each row.
    """
    weights = {
        "num_bits": num_bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if group_size else "channel",
        "group_size": group_size,
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": "pack-quantized",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


class _Tensors:
    """The tensors of a checkpoint's files, read when they are asked for."""

    def __init__(self, model: Path) -> None:
        self._file: dict[str, Any] = {}
        for path in safetensors_of(model):
            try:
                file = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as e:
                raise CheckpointError(f"{path}: cannot be read ({e})") from e
            self._file |= dict.fromkeys(_names(file), file)

    def names(self) -> list[str]:
        return list(self._file)

    def packed(self) -> list[str]:
        return [name.removesuffix(f".{PACKED}") for name in self._file if name.endswith(f".{PACKED}")]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file[name].get_slice(name).get_shape())

    def get(self, name: str) -> torch.Tensor | None:
        return self[name] if name in self._file else None

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file[name].get_tensor(name)
        return tensor


def _names(file: Any) -> list[str]:
    return list(file.keys())


def _layer(tensors: _Tensors, prefix: str, model: Path) -> PackedLayer:
    names = [f"{prefix}.{part}" for part in PARTS]
    found = {name: tensor for name in names if (tensor := tensors.get(name)) is not None}
    try:
        return packed_layer(prefix, found)
    except CheckpointError as e:
        raise CheckpointError(f"{model}: {e}") from e


def _is_linear(name: str) -> bool:
    return ".layers." in name and name.endswith("_proj.weight")
