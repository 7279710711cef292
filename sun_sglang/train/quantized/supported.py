"""The quantizations that a frozen decode module may have in training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv.format import quantization_of
from sun_sglang.errors import CheckpointError

_TAKES = (
    "training takes compressed-tensors' `pack-quantized` decoders: integer weights, and activations that are not "
    "quantised; make one with `sun quantize`"
)


def is_quantized(model: Path) -> bool:
    """Return whether a checkpoint's configuration says that its weights are quantised.

    Raises:
        CheckpointError: `config.json` cannot be read.
    """
    return bool(quantization_of(model, read_json(model / "config.json")))


def require_supported(model: Path) -> None:
    """Raise unless gradients can pass through a quantised checkpoint.

    Raises:
        CheckpointError: training does not support its quantization; the message names it.
    """
    quantization = quantization_of(model, read_json(model / "config.json"))
    method, groups = quantization.get("quant_method"), quantization.get("config_groups")
    if method != "compressed-tensors":
        raise CheckpointError(f"{model}: is quantised by `{method}`; {_TAKES}")
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        raise CheckpointError(f"{model}: its quantization_config has no `config_groups`; {_TAKES}")
    for name, group in groups.items():
        weights = group.get("weights")
        found = {
            "format": group.get("format") or quantization.get("format"),
            "input_activations": group.get("input_activations"),
            "output_activations": group.get("output_activations"),
            "weights.type": weights.get("type") if isinstance(weights, Mapping) else None,
        }
        wanted = {"format": "pack-quantized", "weights.type": "int"}
        for key, value in found.items():
            if value != wanted.get(key):
                raise CheckpointError(f"{model}: quantization_config.config_groups.{name}.{key} is {value!r}; {_TAKES}")
