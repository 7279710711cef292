"""DeepSpeed's part of a fit: the configuration that was launched, made to compute what one process computes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sun_sglang.errors import RecipeError

# the recipe has these; "auto" says so
_BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
_FROM_RECIPE = (*_BATCH, "gradient_clipping", "optimizer", "scheduler", "fp16", "bf16", "torch_autocast")
_FIELDS = ("gradient_accumulation_steps", "gradient_clipping")
_ACCELERATE = "ACCELERATE_DEEPSPEED_"


def is_enabled() -> bool:
    """Whether `accelerate launch` was told to use DeepSpeed."""
    return is_true("ACCELERATE_USE_DEEPSPEED")


def is_true(variable: str) -> bool:
    """Whether a variable of `accelerate launch` says yes."""
    return os.environ.get(variable, "false").lower() in ("true", "1")


def launched_config() -> dict[str, Any]:
    """DeepSpeed's configuration as `accelerate launch` hands it over (accelerate/utils/launch.py).

    Raises:
        RecipeError: it cannot be read, or asks for what is not known to train as one process does.
    """
    file = os.environ.get(f"{_ACCELERATE}CONFIG_FILE", "none")
    config = _fields(os.environ) if file == "none" else _read(Path(file))
    check_config(config)
    return config


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that the recipe contradicts, or that was never tried.

    Raises:
        RecipeError: it is such a configuration.
    """
    for key in _FROM_RECIPE:
        value = config.get(key, "auto")
        if value != "auto" and not (isinstance(value, dict) and value.get("enabled") in (False, "auto")):
            raise RecipeError(f"DeepSpeed: `{key}` is decided by the recipe; remove it from DeepSpeed's configuration")
    zero = config["zero_optimization"]
    if zero.get("stage") not in (1, 2, 3):
        raise RecipeError("DeepSpeed: the stage of ZeRO has to be 1, 2 or 3; without one, use data parallelism (DDP)")
    for key in ("offload_optimizer", "offload_param"):
        if (zero.get(key) or {}).get("device", "none") != "none":
            raise RecipeError(f"DeepSpeed: `{key}` is not supported; remove it, and use stage 3 or more processes")


def complete_config(config: Mapping[str, Any], *, bf16: bool, clip: float) -> dict[str, Any]:
    """A launched configuration with what the recipe decides, for `TrainingArguments.deepspeed`.

    Args:
        config: that `check_config` let pass.
        bf16: run the forward in bfloat16 autocast, on float32 weights, as without DeepSpeed. DeepSpeed's own `bf16`
            would run norms and the loss in bfloat16 too.
        clip: largest norm of the gradient; 0 for no clipping.
    """
    own = {key: value for key, value in config.items() if key not in _FROM_RECIPE}
    # transformers fills these from `model.config.hidden_size`, which a pair of models has not
    own["zero_optimization"] = {key: value for key, value in config["zero_optimization"].items() if value != "auto"}
    autocast = {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return {
        **own,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": clip,
        # said aloud, or accelerate turns them on where its own `mixed_precision` says so
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "torch_autocast": autocast,
        # the optimizer is torch's AdamW, as without DeepSpeed
        "zero_allow_untested_optimizer": True,
    }


def claim_config() -> None:
    """Let accelerate take a configuration from code.

    It refuses one where its own file names fields too, lest these go unheard; `launched_config` has read them.
    """
    os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)


def gather_parameter(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A trained parameter, gathered where ZeRO-3 holds it in parts; every process has to call this."""
    if not hasattr(parameter, "ds_id"):
        return parameter
    from deepspeed.utils import safe_get_full_fp32_param

    # from the optimizer's parts: the parameter itself may be on its way, fetched ahead for a module that did not come
    value: torch.Tensor = safe_get_full_fp32_param(parameter)
    return value.cpu()


def forget_config() -> None:
    """Load models whole from now on: transformers loads them in parts while a ZeRO-3 configuration lives."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _fields(environment: Mapping[str, str]) -> dict[str, Any]:
    """What accelerate's own file or options can say."""
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
        raise RecipeError(f"DeepSpeed: {file}: has no `zero_optimization`, which says what is sharded")
    return config
