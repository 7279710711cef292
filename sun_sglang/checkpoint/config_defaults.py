"""Complete a model's configuration with the defaults of its class in transformers.

Some checkpoints hold only the values that differ from the defaults of their class: Gemma 3 from 4B on has no number of
attention heads. transformers writes all values when it saves such a checkpoint again.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

_REQUIRED = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


def with_class_defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration with the defaults of its class, where it lacks a value that every model has.

    A configuration of a class that transformers lacks is returned unchanged.

    Args:
        config: `config.json`, or its `text_config`.
    """
    known = config.get("model_type")
    if all(key in config for key in _REQUIRED) or not known or not importlib.util.find_spec("transformers"):
        return config
    # the import takes seconds, and few configurations need it
    from transformers import AutoConfig

    given = {key: value for key, value in config.items() if key != "model_type"}
    try:
        whole = AutoConfig.for_model(str(known), **given)
    except Exception:  # each class has checks of its own; the caller reports the value that is missing
        return config
    full: dict[str, Any] = json.loads(whole.to_json_string(use_diff=False))
    # a text configuration without a dtype has the dtype of the configuration around it
    return {key: value for key, value in full.items() if key != "dtype" or "dtype" in config}
