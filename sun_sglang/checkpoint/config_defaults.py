"""A model's configuration with the values that it leaves to transformers.

Some checkpoints name only what differs from the defaults of their class: Gemma 3 from 4B on has no number of attention
heads. Saved again, they name everything.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

_REQUIRED = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


def with_class_defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration with the defaults of its class, where it lacks a value that every model has.

    One that transformers does not know is returned as it is.

    Args:
        config: `config.json`, or its `text_config`.
    """
    known = config.get("model_type")
    if all(key in config for key in _REQUIRED) or not known or not importlib.util.find_spec("transformers"):
        return config
    # takes seconds, and few configurations need it
    from transformers import AutoConfig

    given = {key: value for key, value in config.items() if key != "model_type"}
    try:
        whole = AutoConfig.for_model(str(known), **given)
    except Exception:  # each class has checks of its own; whoever reads the configuration names what it lacks
        return config
    full: dict[str, Any] = json.loads(whole.to_json_string(use_diff=False))
    # a dtype that it lacks is that of the configuration around it
    return {key: value for key, value in full.items() if key != "dtype" or "dtype" in config}
