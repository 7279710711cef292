"""How a model's KV is laid out, from its `config.json` and SGLang's flags. Pure.

The same model has the same layout however transformers wrote its configuration: version 5 keeps all of RoPE in one
place, writes out what followed from other values, and keeps integers where version 4 wrote floats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class Heads(NamedTuple):
    """KV of one token in one layer.

    Attributes:
        number: KV heads.
        size: values of one head.
    """

    number: int
    size: int


def kv_heads(config: Mapping[str, Any]) -> Heads:
    """Return the KV heads of a model.

    Multi-head latent attention (MLA) caches one vector a token, whatever head size its configuration names.

    Args:
        config: `config.json`, or its `text_config`.

    Raises:
        KeyError: the configuration lacks a size.
        TypeError, ValueError: a size is no number.
    """
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    if is_mla(config):
        return Heads(1, int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"]))
    return Heads(config.get("num_key_value_heads") or heads, config.get("head_dim") or hidden // heads)


def is_mla(config: Mapping[str, Any]) -> bool:
    """Return whether a model caches latent vectors (DeepSeek-V2 and V3, Kimi-K2) and no keys and values."""
    return bool(config.get("kv_lora_rank")) and bool(config.get("qk_rope_head_dim"))


def rope(config: Mapping[str, Any]) -> str:
    """Return the RoPE parameters as canonical JSON.

    Args:
        config: `config.json`, or its `text_config`.
    """
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if any(isinstance(value, Mapping) for value in given.values()):
        layers = {kind: _rope_of(part, config) for kind, part in given.items() if isinstance(part, Mapping)}
        return json.dumps(layers, sort_keys=True)
    plain = _rope_of(given, config)
    local = config.get("rope_local_base_freq")
    if local is None:
        return json.dumps(plain, sort_keys=True)
    # Gemma 3 as transformers 4 wrote it: plain RoPE with another base in the layers with a sliding window
    sliding = _rope_of({"rope_theta": local}, {})
    return json.dumps({"full_attention": plain, "sliding_attention": sliding}, sort_keys=True)


def _rope_of(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {key: _number(value) for key, value in given.items() if value is not None}
    old_name = parameters.pop("type", None)
    parameters.setdefault("rope_type", old_name or "default")
    # `mrope` is plain RoPE with sections of its own, which are compared as such
    if parameters["rope_type"] == "mrope":
        parameters["rope_type"] = "default"
    parameters.setdefault("rope_theta", _number(config.get("rope_theta", 10000.0)))
    part = parameters.pop("partial_rotary_factor", _number(config.get("partial_rotary_factor")))
    if part not in (None, 1.0):
        parameters["partial_rotary_factor"] = part
    return parameters


def _number(value: Any) -> Any:
    """Return a value with floats for integers, at every depth: JSON tells 1000000 from 1000000.0, and RoPE does not."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
