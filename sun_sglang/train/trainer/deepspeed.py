"""DeepSpeed: complete the configuration of `accelerate launch`, so that it computes the same as one process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sun_sglang.errors import RecipeError

# the recipe sets these; "auto" in the configuration leaves them to the recipe
_BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
_FROM_RECIPE = (*_BATCH, "gradient_clipping", "optimizer", "scheduler", "fp16", "bf16", "torch_autocast")
_FIELDS = ("gradient_accumulation_steps", "gradient_clipping")
_ACCELERATE = "ACCELERATE_DEEPSPEED_"


def is_enabled() -> bool:
    """Return whether `accelerate launch` uses DeepSpeed."""
    return is_true("ACCELERATE_USE_DEEPSPEED")


def is_true(variable: str) -> bool:
    """Return whether a variable of `accelerate launch` is true."""
    return os.environ.get(variable, "false").lower() in ("true", "1")


def launched_config() -> dict[str, Any]:
    """Return DeepSpeed's configuration as `accelerate launch` passes it on (accelerate/utils/launch.py).

    Raises:
        RecipeError: the configuration cannot be read, or `check_config` refuses it.
    """
    file = os.environ.get(f"{_ACCELERATE}CONFIG_FILE", "none")
    config = _fields(os.environ) if file == "none" else _read(Path(file))
    check_config(config)
    return config


def check_config(config: Mapping[str, Any]) -> None:
    """Check a configuration against the recipe and against the supported settings.

    Raises:
        RecipeError: the configuration sets a value that the recipe sets, a stage other than 1 to 3, or offloading.
    """
    for key in _FROM_RECIPE:
        value = config.get(key, "auto")
        if value != "auto" and not (isinstance(value, dict) and value.get("enabled") in (False, "auto")):
            raise RecipeError(f"DeepSpeed: `{key}` is set by the recipe; remove it from DeepSpeed's configuration")
    zero = config["zero_optimization"]
    if zero.get("stage") not in (1, 2, 3):
        raise RecipeError("DeepSpeed: the stage of ZeRO must be 1, 2 or 3; for no sharding use data parallelism (DDP)")
    for key in ("offload_optimizer", "offload_param"):
        if (zero.get(key) or {}).get("device", "none") != "none":
            raise RecipeError(f"DeepSpeed: `{key}` is not supported; remove it, and use stage 3 or more processes")


def complete_config(config: Mapping[str, Any], *, bf16: bool, clip: float) -> dict[str, Any]:
    """Return a configuration for `TrainingArguments.deepspeed`, with the values that the recipe sets.

    Args:
        config: a configuration that `check_config` accepts.
        bf16: run the forward pass in bfloat16 autocast on float32 weights, as without DeepSpeed. DeepSpeed's own `bf16`
            would also run norms and the loss in bfloat16.
        clip: largest norm of the gradient; 0 for no clipping.
    """
    own = {key: value for key, value in config.items() if key not in _FROM_RECIPE}
    # transformers fills these from `model.config.hidden_size`, which a pair of models lacks
    own["zero_optimization"] = {key: value for key, value in config["zero_optimization"].items() if value != "auto"}
    autocast = {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return {
        **own,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": clip,
        # explicit, because accelerate turns them on where its own `mixed_precision` is set
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "torch_autocast": autocast,
        # the optimizer is torch's AdamW, as without DeepSpeed
        "zero_allow_untested_optimizer": True,
    }


def claim_config() -> None:
    """Make accelerate accept a configuration from code.

    accelerate refuses one where its own file sets fields too, which it would ignore; `launched_config` has read them.
    """
    os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)


def gather_parameter(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a trained parameter, gathered where ZeRO-3 splits it. Every process must call this."""
    if not hasattr(parameter, "ds_id"):
        return parameter
    from deepspeed.utils import safe_get_full_fp32_param

    # from the optimizer's parts: the parameter itself may be in a prefetch for a module that did not run
    value: torch.Tensor = safe_get_full_fp32_param(parameter)
    return value.cpu()


def forget_config() -> None:
    """Make transformers load whole models again: it loads them in parts while a ZeRO-3 configuration exists."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _fields(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration from accelerate's own file or options."""
    offload = {
        f"offload_{what}": {"device": environment.get(f"{_ACCELERATE}OFFLOAD_{what.upper()}_DEVICE", "none")}
        for what in ("optimizer", "param")
    }
    asked = {key: environment.get(f"ACCELERATE_{key.upper()}", "auto") for key in _FIELDS}
    # accelerate's default is 2
    return {"zero_optimization": {"stage": int(environment.get(f"{_ACCELERATE}ZERO_STAGE", "2")), **offload}, **asked}


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise RecipeError(f"DeepSpeed: {file}: cannot be read as JSON ({e})") from e
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization"), dict):
        raise RecipeError(f"DeepSpeed: {file}: has no `zero_optimization`, the settings of sharding; add it")
    return config
