"""Require that a checkpoint holds every tensor that its architecture needs, each with its shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.completeness.comparison import (
    is_other_layout,
    language_part,
    layers_beyond,
    missing_tensors,
    whole_number_weights,
    wrong_shapes,
)
from sun_sglang.checkpoint.completeness.needed import needed_tensors
from sun_sglang.checkpoint.completeness.packed import is_packed_format, packed_problem
from sun_sglang.checkpoint.completeness.stored import StoredTensor, read_stored
from sun_sglang.checkpoint.config_file import architecture_of, layers_of, require_no_adapter
from sun_sglang.checkpoint.config_overrides import overrides_of, with_overrides
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv.format import quantization_of
from sun_sglang.errors import CheckpointError

# values of SGLang's flag `load_format` that read safetensors files as they are
_PLAIN_FORMATS = (None, "auto", "safetensors")


def require_complete(model: Path, engine: Mapping[str, Any] | None = None) -> str:
    """Raise unless a checkpoint is whole.

    Args:
        model: directory of the checkpoint.
        engine: SGLang's flags; None outside of serving.

    Returns:
        why names and shapes were not compared, as a part of a sentence; empty where they were.

    Raises:
        CheckpointError: a file is missing or truncated; a tensor is missing or has another shape or type; there are
            layers that the configuration does not have; or `json_model_override_args` is no JSON object.
    """
    flags = engine or {}
    if flags.get("load_format") not in _PLAIN_FORMATS:
        return ""
    require_no_adapter(model)
    stored = read_stored(model)
    if all("." not in name for name in stored):
        return "its tensors do not have the names of a model's layers"
    overrides = overrides_of(flags)
    config = with_overrides(read_json(model / "config.json", "a Hugging Face checkpoint has one"), overrides)
    architecture = architecture_of(config, model)
    text = config.get("text_config", config)
    if isinstance(text, Mapping) and "num_hidden_layers" in text:
        # before a model of that many layers is built
        layers_of(text, model)
    needed = needed_tensors(config)
    if needed.unknown:
        return needed.unknown
    shapes = language_part(needed.shapes) if "text_config" in config else needed.shapes
    if is_other_layout(shapes, stored):
        return "its tensors have other names than transformers gives them"
    missing = missing_tensors(shapes, stored)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{model}: no file holds `{missing[0]}`{more}, which {architecture} needs; copy or download "
            "the checkpoint again, or save it with all its weights"
        )
    _require_no_layers_beyond(model, config, layers_beyond(shapes, stored), stored, overrides)
    quantization = quantization_of(model, config)
    if problem := packed_problem(shapes, stored, quantization):
        raise CheckpointError(f"{model}: {problem}")
    if not quantization or is_packed_format(quantization):
        if not flags.get("quantization"):
            for name in whole_number_weights(shapes, stored):
                raise CheckpointError(
                    f"{model / stored[name].file}: `{name}` is stored as {stored[name].dtype}, and a weight is a "
                    "floating-point number; save the model with `save_pretrained`, or copy or download it again"
                )
        for name, shape, tensor in wrong_shapes(shapes, stored):
            raise CheckpointError(
                f"{model / tensor.file}: `{name}` has the shape {list(tensor.shape)}, and config.json requires "
                f"{list(shape)}; use the config.json that belongs to these weights"
            )
    return ""


def _require_no_layers_beyond(
    model: Path,
    config: Mapping[str, Any],
    beyond: list[str],
    stored: Mapping[str, StoredTensor],
    overrides: Mapping[str, Any],
) -> None:
    """Raise if the weights have more layers than the configuration, and neither flags nor configuration say so."""
    # further layers predict further tokens: DeepSeek-V3 has them after its own
    text = config.get("text_config")
    settings = {**config, **(text if isinstance(text, Mapping) else {})}
    predicts = any(isinstance(n, int) and n > 0 for key, n in settings.items() if "nextn" in key or "mtp" in key)
    if not beyond or predicts or "num_hidden_layers" in str(overrides):
        return
    more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
    raise CheckpointError(
        f"{model / stored[beyond[0]].file}: holds `{beyond[0]}`{more}, of layers that config.json does not have "
        "(num_hidden_layers); use the config.json that belongs to these weights"
    )
