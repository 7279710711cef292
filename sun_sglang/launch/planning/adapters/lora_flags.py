"""The SGLang flags of a prefill pool whose tasks have LoRA adapters. Pure.

The launcher gives no adapter to a worker: the router loads them. SGLang then requires the highest rank and the layers
of all adapters at the start (`srt/lora/lora_manager.py`: `init_state`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.adapter_targets import DEFAULT_TARGETS, accepted_targets
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.topology import EngineFlags

ENABLE, RANK, TARGETS, PATHS = "enable_lora", "max_lora_rank", "lora_target_modules", "lora_paths"
DEFAULT_RANK = 16
"""The highest rank of a pool that has no adapter yet; `sun train` has this default too."""


def accepts_adapters(pool: PoolSettings, adapters: Mapping[str, AdapterRef]) -> bool:
    """Return whether the workers of a pool apply LoRA adapters, now or later.

    Args:
        pool: the pool.
        adapters: the adapters of its tasks.
    """
    return bool(adapters or pool.flags.get(ENABLE) or (pool.flags.get(PATHS) and pool.flags.get(ENABLE) is None))


def lora_flags(pool: PoolSettings, adapters: Mapping[str, AdapterRef]) -> EngineFlags:
    """Return the defaults of a pool that accepts adapters: room for those of its tasks, else for usual ones.

    With adapters of the user's own (`lora_paths`) and none of a task, SGLang derives all of it.

    Args:
        pool: the pool.
        adapters: the adapters of its tasks, by task.
    """
    if not accepts_adapters(pool, adapters):
        return {}
    if pool.flags.get(PATHS) and not adapters:
        return {ENABLE: True}
    ranks = [ref.rank for ref in adapters.values()]
    targets = sorted({target for ref in adapters.values() for target in ref.target_modules})
    return {ENABLE: True, RANK: max(ranks, default=DEFAULT_RANK), TARGETS: targets or list(DEFAULT_TARGETS)}


def require_room(pool: PoolSettings, adapters: Mapping[str, AdapterRef]) -> None:
    """Raise unless the user's flags let a pool serve the adapters of its tasks.

    Args:
        pool: the pool.
        adapters: the adapters of its tasks, by task.

    Raises:
        TopologyError: a flag turns LoRA off, is too small for an adapter, or is one with which SGLang loads no adapters
            while it runs; names the flag, the task and the difference.
    """
    if not adapters:
        return
    task = next(iter(adapters))
    if pool.flags.get(ENABLE) is False:
        raise TopologyError(pool.flag_path(ENABLE), f"is `false`, and the task `{task}` has an adapter", "remove it")
    for flag in ("dp_size", "attn_dp_size"):
        if (pool.flags.get(flag) or 1) != 1:
            problem = f"SGLang loads no adapters into a worker with several data-parallel ranks (task `{task}`)"
            raise TopologyError(pool.flag_path(flag), problem, "set it to 1, and raise `replicas`")
    if pool.flags.get("enable_dp_attention"):
        problem = f"SGLang loads no adapters into a worker with DP attention (task `{task}`)"
        raise TopologyError(pool.flag_path("enable_dp_attention"), problem, "remove it, and raise `replicas`")
    if pool.flags.get(PATHS):
        for flag in (RANK, TARGETS):
            if pool.flags.get(flag) is None:
                problem = f"is required beside `{PATHS}` where tasks have adapters (task `{task}`)"
                raise TopologyError(f"{pool.where}.engine.{flag}", problem, "choose it for all of them")
    most, targets = pool.flags.get(RANK), pool.flags.get(TARGETS)
    for task, ref in adapters.items():
        # of another type where SGLang, whose parser checks it, is not installed
        if isinstance(most, int) and ref.rank > most:
            problem = f"is {most}, and the adapter of the task `{task}` has rank {ref.rank}"
            raise TopologyError(pool.flag_path(RANK), problem, f"set it to {ref.rank} or more, or remove it")
        if targets is not None:
            accepted = accepted_targets(_listed(targets))
            if missing := [name for name in ref.target_modules if name not in accepted]:
                problem = f"lacks `{missing[0]}`, which the adapter of the task `{task}` changes"
                raise TopologyError(pool.flag_path(TARGETS), problem, "add it, or remove the flag")


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [str(value)]
