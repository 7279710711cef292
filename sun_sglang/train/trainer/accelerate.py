"""The settings of `accelerate launch`: read them, and refuse those whose result differs from one process."""

from __future__ import annotations

import os

import torch

from sun_sglang.errors import RecipeError
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.trainer import deepspeed


def sharded() -> bool:
    """Return whether FSDP or DeepSpeed is on, so that modules may be split over the processes."""
    return deepspeed.is_true("ACCELERATE_USE_FSDP") or deepspeed.is_enabled()


def check_launched(recipe: Recipe) -> None:
    """Check that the launch settings can train a recipe.

    Raises:
        RecipeError: the launch settings cannot train this recipe.
    """
    if deepspeed.is_enabled():
        deepspeed.launched_config()
    if not deepspeed.is_true("ACCELERATE_USE_FSDP"):
        return
    if deepspeed.is_true("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise RecipeError("FSDP: every process loads the weights itself; set `fsdp_cpu_ram_efficient_loading: false`")
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RecipeError("FSDP: version 1 is not supported; set `fsdp_version: 2` in accelerate's configuration")
    whole = os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT") != "SHARDED_STATE_DICT"
    if whole and recipe.tuning_scheme.one_module and recipe.save_steps:
        # torch writes a module that is on both sides once, and expects it twice when it reads the state back
        raise RecipeError(
            "FSDP: set `fsdp_state_dict_type: SHARDED_STATE_DICT`, or `save_steps: 0`, for one module on both sides"
        )


def check_dtype(recipe: Recipe, base: torch.dtype) -> None:
    """Check that the launch settings can train a base of a dtype.

    Raises:
        RecipeError: the launch settings use DeepSpeed, the recipe has `bf16`, and the base is in float16.
    """
    if deepspeed.is_enabled() and recipe.bf16 and base == torch.float16:
        # ZeRO-3 concatenates gathered parameters under autocast, which accepts only float32 and its own dtype
        raise RecipeError("bf16: DeepSpeed cannot train on a base in float16; turn it off, or use FSDP2 or DDP")
