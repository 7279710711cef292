"""Check that a recipe's decoder can decode for modules tuned from its base, from the two configurations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.config_defaults import with_class_defaults
from sun_sglang.checkpoint.config_file import architecture_of, layers_of
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv.layout import kv_heads, rope
from sun_sglang.errors import RecipeError
from sun_sglang.train.quantized.supported import is_quantized, require_supported


def check_decoder(base: Path, decoder: Path) -> None:
    """Check a decoder that is not the base.

    Args:
        base: directory of the model that tuning starts from.
        decoder: directory of the frozen decode module, quantised or not.

    Raises:
        RecipeError: its KV has another layout than the base's.
        CheckpointError: training does not support its quantization, or a `config.json` cannot be read.
    """
    if is_quantized(decoder):
        require_supported(decoder)
    ours, theirs = _layout(base), _layout(decoder)
    for field, value in ours.items():
        if theirs[field] != value:
            raise RecipeError(
                f"decoder: {decoder}: its {field} is {theirs[field]}, and the base's is {value}; name a decoder that "
                "was made from the same model as `base`"
            )


def _layout(model: Path) -> dict[str, Any]:
    config = read_json(model / "config.json")
    text = with_class_defaults(config.get("text_config", config))
    heads = kv_heads(text)
    return {
        "architecture": architecture_of(config, model),
        "number of layers": layers_of(text, model),
        "number of KV heads": heads.number,
        "head size": heads.size,
        "RoPE": rope(text),
    }
