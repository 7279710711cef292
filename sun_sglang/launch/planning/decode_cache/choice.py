"""Choose the decode cache of a pool, and explain the choice to the user. Pure."""

from __future__ import annotations

from collections.abc import Collection

from sun_sglang.contracts.decode_cache import PROMPT_ONLY_BACKEND
from sun_sglang.launch.planning.decode_cache.architectures import keeps_states, refuses_decode_cache
from sun_sglang.launch.planning.pools import ResolvedPool
from sun_sglang.topology import EngineFlags

_CACHE = "disaggregation_decode_enable_radix_cache"


def cache_flags(pool: ResolvedPool, flags: EngineFlags, speculative_with_cache: Collection[str] = ()) -> EngineFlags:
    """Return the flags of the decode cache that a decode pool gets where its user sets none.

    Args:
        pool: a decode pool.
        flags: all other flags of its workers.
        speculative_with_cache: what SGLang combines with the decode cache (`FlagSchema`); nothing where it is unknown.
    """
    user = pool.flags
    declined = user.get("disable_radix_cache") or (_CACHE in user and not user[_CACHE])
    if declined or _obstacle(pool, flags, speculative_with_cache):
        return {}
    own = {} if pool.same_module else {"radix_cache_backend": PROMPT_ONLY_BACKEND}
    return {_CACHE: True, **own}


def cache_notes(pool: ResolvedPool, flags: EngineFlags, speculative_with_cache: Collection[str] = ()) -> list[str]:
    """Return the effects of a user's settings and of the model on the decode cache of a pool, as sentences.

    Args:
        pool: a pool of either role; a prefill pool has no notes.
        flags: its workers' flags.
        speculative_with_cache: as for `cache_flags`.
    """
    if pool.role != "decode":
        return []
    obstacle = _obstacle(pool, flags, speculative_with_cache)
    if obstacle:
        return [f"Pool `{pool.name}` has no decode cache: {obstacle}."]
    if flags.get(_CACHE) and "radix_cache_backend" in pool.flags:
        return [
            f"Pool `{pool.name}` sets `radix_cache_backend` itself: a cache other than `{PROMPT_ONLY_BACKEND}` may "
            "keep the decode model's own KV, so tasks with other prefill weights reuse nothing of it."
        ]
    return []


def _obstacle(pool: ResolvedPool, flags: EngineFlags, speculative_with_cache: Collection[str]) -> str | None:
    """Return the reason, as a clause, why a pool gets no decode cache that its user did not decline; else None."""
    user = pool.flags
    feature = _excluding_feature(flags, speculative_with_cache)
    if feature:
        return f"SGLang cannot combine it with `{feature}`"
    ours = "radix_cache_backend" not in user and not pool.same_module
    if ours and flags.get("enable_int8_mamba_checkpoint"):
        return "SGLang combines `enable_int8_mamba_checkpoint` with its own cache only, which keeps answers"
    identity = pool.identity
    # a user who sets the flag decides for the model, too
    if identity is None or _CACHE in user or user.get("disable_radix_cache"):
        return None
    if refuses_decode_cache(identity.architecture):
        return f"SGLang cannot combine it with the architecture `{identity.architecture}`"
    if ours and keeps_states(identity.architecture) and not _keeps_state_of_prompt(flags):
        return (
            f"for `{identity.architecture}` SGLang keeps the state at a prompt's end only with "
            "`mamba_radix_cache_strategy: no_buffer` and `disable_overlap_schedule: true`"
        )
    return None


def _excluding_feature(flags: EngineFlags, speculative_with_cache: Collection[str]) -> str | None:
    """Return the setting that SGLang cannot combine with a decode cache (`arg_groups/pd_disaggregation_hook.py`)."""
    if flags.get("enable_hisparse"):
        return "enable_hisparse"
    if flags.get("disaggregation_decode_allocation_policy") == "prefill_complete":
        return "disaggregation_decode_allocation_policy: prefill_complete"
    algorithm = flags.get("speculative_algorithm")
    if algorithm is not None and algorithm not in speculative_with_cache:
        return f"speculative_algorithm: {algorithm}"
    return None


def _keeps_state_of_prompt(flags: EngineFlags) -> bool:
    """Return whether SGLang inserts the state at a prompt's end into its cache (`arg_groups/overrides.py`).

    With `extra_buffer` it inserts only states of answers, at every `mamba_track_interval`. A decode cache then costs
    two more states a request, and the prompt-only cache stays empty.
    """
    strategy = flags.get("mamba_radix_cache_strategy") or "auto"
    paged = flags.get("page_size") not in (None, 1)
    return strategy == "no_buffer" or (strategy == "auto" and bool(flags.get("disable_overlap_schedule")) and not paged)
