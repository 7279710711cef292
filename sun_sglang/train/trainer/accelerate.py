"""What `accelerate launch` asked for: its variables, and refusals of what would not train as one process does."""

from __future__ import annotations

import os

import torch

from sun_sglang.errors import RecipeError
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.trainer import deepspeed


def sharded() -> bool:
    """Whether modules are split over the processes, or may be."""
    return deepspeed.is_true("ACCELERATE_USE_FSDP") or deepspeed.is_enabled()


def check_launched(recipe: Recipe) -> None:
    """Refuse a launch that cannot train the recipe.

    Raises:
        RecipeError: it is such a launch.
    """
    if deepspeed.is_enabled():
        deepspeed.launched_config()
    if not deepspeed.is_true("ACCELERATE_USE_FSDP"):
        return
    if deepspeed.is_true("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise RecipeError("FSDP: every process loads the weights; set `fsdp_cpu_ram_efficient_loading: false`")
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RecipeError("FSDP: version 1 is not supported; set `fsdp_version: 2` in accelerate's configuration")
    whole = os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT") != "SHARDED_STATE_DICT"
    if whole and recipe.tuning_scheme.one_module and recipe.save_steps:
        # torch writes a module that stands on both sides once, and asks for it twice when it reads that back
        raise RecipeError(
            "FSDP: set `fsdp_state_dict_type: SHARDED_STATE_DICT`, or `save_steps: 0`, for one module on both sides"
        )


def check_dtype(recipe: Recipe, base: torch.dtype) -> None:
    """Refuse a base whose dtype cannot be trained as launched.

    Raises:
        RecipeError: it is such a base.
    """
    if deepspeed.is_enabled() and recipe.bf16 and base == torch.float16:
        # ZeRO-3 joins what it gathers within autocast, which takes float32 and its own dtype alone
        raise RecipeError("bf16: DeepSpeed cannot train on a base in float16; turn it off, or use FSDP2 or DDP")
