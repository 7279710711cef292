"""The layout of a model's KV, from its `config.json` and SGLang's flags. Pure.

The layout of a model does not depend on the version of transformers that wrote its configuration: version 5 keeps all
of RoPE in one place, writes values that follow from others, and keeps integers where version 4 wrote floats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sun_sglang.checkpoint.kv.format import UNSCALED

# KV of 16 or 8 bits a value and nothing else: other formats store scales beside it, which are not split by head
_PLAIN_KV = (*UNSCALED, "fp8_e4m3", "fp8_e5m2")
_ORIGINAL_LENGTH = "original_max_position_embeddings"
# selects the layers with experts; it has no effect on attention
_EXPERTS = "decoder_sparse_step"
# keys of `config.json` for state other than the KV of full attention
_OTHER_STATE = re.compile(
    r"sliding|window|linear_attn|linear_attention|linear_num|mamba|ssm|hybrid|sparse|chunk|compress"
)


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

    Multi-head latent attention (MLA) caches one vector for each token; the head size in its configuration has no
    effect.

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
    """Return whether a model caches latent vectors (DeepSeek-V2 and V3, Kimi-K2) in place of keys and values."""
    return bool(config.get("kv_lora_rank")) and bool(config.get("qk_rope_head_dim"))


def attention_ranks(engine: Mapping[str, Any]) -> int:
    """Return the number of ranks that share one token's KV heads: the tensor-parallel ranks of one attention group.

    Args:
        engine: SGLang's flags. 0.5.21 has `enable_dp_attention`, which 0.5.23 resolves to `attn_dp_size`.
    """
    ranks = int(engine.get("tp_size") or engine.get("tensor_parallel_size") or engine.get("tp") or 1)
    groups = int(engine.get("attn_dp_size") or 1)
    if groups == 1 and engine.get("enable_dp_attention"):
        groups = int(engine.get("dp_size") or 1)
    return max(1, ranks // groups // int(engine.get("attn_cp_size") or 1))


def moves_between_ranks(config: Mapping[str, Any], engine: Mapping[str, Any], kv_flag: str) -> bool:
    """Return whether every transfer backend moves a model's KV to a worker with another number of ranks.

    SGLang moves the KV of full attention, whose heads it splits and joins, and of MLA, of which each rank has a copy
    (`disaggregation/mooncake/conn.py` and `nixl/conn.py`). The rules for the state of sliding windows, Mamba and sparse
    attention differ between backends and versions; the result is False for a model that seems to have such state.

    Args:
        config: `config.json`, or its `text_config`.
        engine: SGLang's flags.
        kv_flag: SGLang's resolved `kv_cache_dtype`.
    """
    if kv_flag not in _PLAIN_KV or engine.get("speculative_algorithm") or engine.get("enable_page_major_kv_layout"):
        return False
    if is_mla(config) and not config.get("linear_attn_config"):
        return True
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        return False
    no_window = config.get("use_sliding_window") is False
    return not any(
        value and _OTHER_STATE.search(key) and key != _EXPERTS and not (no_window and "window" in key)
        for key, value in config.items()
    )


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
    # Gemma 3 in the form of transformers 4: plain RoPE with another base in the layers with a sliding window
    sliding = _rope_of({"rope_theta": local}, {})
    return json.dumps({"full_attention": plain, "sliding_attention": sliding}, sort_keys=True)


def _rope_of(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {key: _number(value) for key, value in given.items() if value is not None}
    old_name = parameters.pop("type", None)
    parameters.setdefault("rope_type", old_name or "default")
    # `mrope` is plain RoPE with sections, and the sections are compared
    if parameters["rope_type"] == "mrope":
        parameters["rope_type"] = "default"
    parameters.setdefault("rope_theta", _number(config.get("rope_theta", 10000.0)))
    original = config.get(_ORIGINAL_LENGTH)
    if original is not None and parameters["rope_type"] in ("llama3", "yarn", "longrope"):
        # Phi-3 has it beside the parameters, where it takes precedence; transformers 5 writes it among them
        parameters[_ORIGINAL_LENGTH] = _number(original)
    part = parameters.pop("partial_rotary_factor", _number(config.get("partial_rotary_factor")))
    if part not in (None, 1.0):
        parameters["partial_rotary_factor"] = part
    return parameters


def _number(value: Any) -> Any:
    """Return a value with floats for integers, at every depth: 1000000 and 1000000.0 differ in JSON, not in RoPE."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
