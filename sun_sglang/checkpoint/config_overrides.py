"""The configuration of a checkpoint as SGLang serves it: `config.json` with the flag `json_model_override_args`. Pure.

SGLang sets each override as an attribute of the configuration that transformers read (`get_config` in
`utils/hf_transformers/config.py`). An object is merged into a configuration within the configuration, by one level, and
into the RoPE parameters; it replaces any other value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sun_sglang.errors import CheckpointError

OVERRIDES = "json_model_override_args"
# transformers 5 keeps both names of the RoPE parameters in one attribute
_ROPE = ("rope_parameters", "rope_scaling")
# transformers keeps these as plain objects
_NO_CONFIGURATION = ("quantization_config", "compression_config")


def overrides_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides in SGLang's flags; empty where there are none.

    Args:
        flags: SGLang's flags; the overrides are JSON text, or an object of a YAML file.

    Raises:
        CheckpointError: they are no JSON object.
    """
    given = flags.get(OVERRIDES)
    if given is None:
        return {}
    try:
        value = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError) as e:
        raise CheckpointError(
            f'{OVERRIDES}: is not JSON ({e}); write an object such as {{"num_hidden_layers": 8}}'
        ) from e
    if not isinstance(value, dict):
        raise CheckpointError(f'{OVERRIDES}: is not a JSON object; write one such as {{"num_hidden_layers": 8}}')
    return value


def with_overrides(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with overrides as SGLang applies them.

    Args:
        config: `config.json`.
        overrides: from `overrides_of`.
    """
    merged = dict(config)
    for key, value in overrides.items():
        current = merged.get(key)
        if key in _ROPE:
            rope = next((merged[name] for name in _ROPE if merged.get(name)), None)
            is_part = isinstance(value, Mapping) and isinstance(rope, Mapping)
            _set(merged, key, {**(rope or {}), **value} if is_part else value)
        elif _is_configuration(key) and isinstance(value, Mapping) and isinstance(current, Mapping):
            inner = dict(current)
            for name, item in value.items():
                _set(inner, name, item)
            merged[key] = inner
        else:
            merged[key] = value
    return merged


def _is_configuration(key: str) -> bool:
    return key.endswith("_config") and key not in _NO_CONFIGURATION


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a value. Of the two names of the RoPE parameters only one remains."""
    if key in _ROPE:
        for name in _ROPE:
            config.pop(name, None)
    config[key] = value
