"""For which decoder a checkpoint was tuned, and whether a decoder is that one.

A module that prefills for weights that it was not tuned for gives wrong answers, and nothing fails. A 4-bit version of
the right weights is another decoder: the paper's GSM8K falls from 70.6 to 11.4 with it (SUN, section 3.3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sun_sglang.errors import CheckpointError
from sun_sglang.strict import first_invalid

# SGLang flags that quantize the weights of a checkpoint while it is loaded
_QUANTIZING = ("quantization", "modelopt_quant", "quantize_and_serve", "rl_quant_profile")


class Tuning(BaseModel):
    """What serving needs of `sun.json`, the record that a trainer leaves beside tuned weights.

    Attributes:
        base: revision of the weights that it started from.
        decoder: revision of the weights that it has to be decoded with.
        first_token: which module makes the first output token.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    base: str
    decoder: str
    first_token: Literal["prefill", "decode"]


def read_tuning(model: Path) -> Tuning | None:
    """Return the tuning record of a checkpoint; None if it has none.

    Raises:
        CheckpointError: there is one that cannot be read.
    """
    file = model / "sun.json"
    if not file.exists():
        return None
    try:
        return Tuning.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as e:
        raise CheckpointError(f"{file}: {first_invalid(e, Tuning).describe('its content')}") from e
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{file}: cannot be read ({e})") from e


def decoder_revision(weights: str, engine: Mapping[str, Any], quantization: Mapping[str, Any]) -> str:
    """Return what tells a decoder from others: its weights, and the flag that quantizes them while they are loaded.

    Args:
        weights: revision of the checkpoint's weights.
        engine: SGLang's flags.
        quantization: how the checkpoint's weights are quantized; empty if they are not. Such weights are what a module
            was tuned for, and a flag then names their own format.
    """
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
