"""List the tensors that an architecture needs: transformers builds the model of a configuration without memory.

That takes seconds, since it imports torch. Another process does it once per configuration, and the user's cache
directory keeps the answer; a process that has imported torch builds the model itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from sun_sglang.files.user_cache import read_cached, write_cached
from sun_sglang.strict import Strict

_MARK = "sun-tensors:"
# of the cached file; raise it when `NeededTensors` or its computation changes
_FORMAT = 1
_SECONDS = 300
# settings of a configuration that change no shape, or that change how weights are stored
_NOT_SHAPES = ("quantization_config", "compression_config", "dtype", "torch_dtype", "_name_or_path", "auto_map")


class NeededTensors(Strict):
    """The tensors of a model.

    Attributes:
        shapes: shape of each tensor that a checkpoint must hold, by its name there; empty where they are unknown.
        unknown: the reason why they are unknown; else empty.
    """

    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    unknown: str = ""


def needed_tensors(config: Mapping[str, Any]) -> NeededTensors:
    """Return the tensors that a checkpoint with this configuration must hold.

    Args:
        config: `config.json`, with the overrides of SGLang's flags.
    """
    if not all(importlib.util.find_spec(package) for package in ("torch", "transformers")):
        return NeededTensors(unknown="torch and transformers are not installed here")
    if "torch" in sys.modules:
        return _derive(config)
    settings = {key: value for key, value in config.items() if key not in _NOT_SHAPES}
    state = [_FORMAT, importlib.metadata.version("transformers"), settings]
    key = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    name = f"tensors-{key}.json"
    cached = read_cached(name, NeededTensors)
    if cached is not None:
        return cached
    found = _ask_transformers(settings)
    if found is None:
        return NeededTensors(unknown="transformers cannot be imported, or takes too long")
    write_cached(name, found)
    return found


def _ask_transformers(config: Mapping[str, Any]) -> NeededTensors | None:
    code = "from sun_sglang.checkpoint.completeness.needed import print_needed; print_needed()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(config),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    return NeededTensors.model_validate_json(lines[-1].removeprefix(_MARK)) if lines else None


def print_needed() -> None:
    """Read a configuration from standard input and print its tensors. Runs in the other process."""
    sys.stdout.write(f"\n{_MARK}{_derive(json.load(sys.stdin)).model_dump_json()}\n")


def _derive(config: Mapping[str, Any]) -> NeededTensors:
    from sun_sglang.cpu import define_torchvision_schemas

    define_torchvision_schemas()
    import torch
    import transformers
    from transformers import CONFIG_MAPPING

    architecture = str(config["architectures"][0])
    model_class = getattr(transformers, architecture, None)
    kind = config.get("model_type")
    if model_class is None or kind not in CONFIG_MAPPING:
        return NeededTensors(unknown=f"transformers {transformers.__version__} does not know {architecture}")
    settings = _with_fitting_layers({key: value for key, value in config.items() if key not in _NOT_SHAPES})
    try:
        with torch.device("meta"):
            model: Any = model_class(CONFIG_MAPPING[kind].from_dict(settings))
        state = dict(model.state_dict())
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
        own = {n: t for n, t in state.items() if n not in tied and not any(p.search(n) for p in ignored)}
        shapes = {name: tuple(tensor.shape) for name, tensor in _as_stored(model, own).items()}
    except Exception as e:  # each class has checks of its own; SGLang may serve what transformers refuses
        return NeededTensors(unknown=f"transformers cannot build {architecture} ({type(e).__name__}: {e})")
    return NeededTensors(shapes=shapes)


def _with_fitting_layers(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with a type for each layer; transformers refuses another number of types."""
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**config, "text_config": _with_fitting_layers(text)}
    types, layers = config.get("layer_types"), config.get("num_hidden_layers")
    if not isinstance(types, list) or not isinstance(layers, int) or len(types) == layers:
        return config
    return {**config, "layer_types": types[:layers] if len(types) > layers else None}


def _as_stored(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with the names and shapes of a checkpoint; version 5 of transformers fuses experts in memory."""
    from transformers.core_model_loading import revert_weight_conversion

    stored: dict[str, Any] = revert_weight_conversion(model, state)
    return stored
