"""The revision of a decoder, and whether a module was tuned for it.

A module that prefills for weights that it was not tuned for gives wrong answers, and no check fails. A 4-bit version of
the right weights is another decoder: the paper's GSM8K falls from 70.6 to 11.4 with it (SUN, section 3.3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sun_sglang.checkpoint.config_overrides import OVERRIDES

# SGLang flags that quantize the weights of a checkpoint while it is loaded
_QUANTIZING = ("quantization", "modelopt_quant", "quantize_and_serve", "rl_quant_profile")


def decoder_revision(
    weights: str, engine: Mapping[str, Any], quantization: Mapping[str, Any], served: Mapping[str, Any]
) -> str:
    """Return the revision of a decoder: that of its weights, and the flag that quantizes them while they are loaded.

    Args:
        weights: revision of the checkpoint's weights.
        engine: SGLang's flags.
        quantization: the quantization of the checkpoint's weights; empty if there is none. A module was tuned for these
            quantized weights, so a flag that names their format changes nothing.
        served: the same with `json_model_override_args`.
    """
    if served != quantization:
        digest = hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()[:16]
        return f"{weights} with {OVERRIDES}=quantization_config:{digest}"
    given = {name: engine[name] for name in _QUANTIZING if engine.get(name)}
    if engine.get("load_format") == "bitsandbytes":
        given["load_format"] = "bitsandbytes"
    if not given or quantization:
        return weights
    name, value = next(iter(given.items()))
    return f"{weights} with {name}={value}"


def is_tuned_for(tuned_for: str, decoder: str) -> bool:
    """Return whether a module may prefill for a decoder.

    Args:
        tuned_for: the decoder's revision that the module was tuned for; empty for a model that was not tuned.
        decoder: revision of the decoder.
    """
    return tuned_for in ("", decoder)
