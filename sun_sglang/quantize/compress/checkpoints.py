"""Load the model to quantize, save it packed, and load the packed one with its weights as they count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# llmcompressor writes its own recipe; the checkpoint's origin is in `sun_quantize.json`
_RECIPE = "recipe.yaml"


def load_source(model: Path) -> Any:
    """Return a causal LM in the dtype of its `config.json`, in evaluation mode.

    Raises:
        ValueError: a weight is missing, has another shape, or is not finite.
    """
    return _load(model)


def save_packed(model: Any, output: Path) -> None:
    """Write a calibrated model as a compressed-tensors checkpoint, `pack-quantized`, without a tokenizer."""
    model.save_pretrained(output, save_compressed=True)
    (output / _RECIPE).unlink(missing_ok=True)


def load_dequantized(model: Path) -> Any:
    """Return the causal LM of a packed checkpoint; its weights have the values that the packed ones stand for.

    Raises:
        ValueError: a weight is missing, has another shape, or is not finite.
    """
    from transformers.utils.quantization_config import CompressedTensorsConfig

    return _load(model, quantization_config=CompressedTensorsConfig(run_compressed=False))


def _load(model: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    loaded, report = AutoModelForCausalLM.from_pretrained(
        model, dtype="auto", local_files_only=True, output_loading_info=True, **options
    )
    # transformers gives these random values and warns
    lost = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if lost:
        raise ValueError(f"{model}: no file holds `{lost[0]}` with its shape")
    broken = next((name for name, weight in loaded.named_parameters() if not weight.isfinite().all()), None)
    if broken is not None:
        raise ValueError(f"{model}: `{broken}` has a value that is not finite")
    return loaded.eval()
