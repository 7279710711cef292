"""The SGLang flags that a worker gets where its user says nothing, and what a user's setting rules out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sun_sglang.identity import MODULE_FLAGS, Identity
from sun_sglang.launch.devices import data_parallel_ranks, uses_gpu
from sun_sglang.launch.flags import canonical
from sun_sglang.launch.machine import Machine
from sun_sglang.launch.transfer import Transfer
from sun_sglang.patches.decode_cache_models import refuses_decode_cache
from sun_sglang.topology import EngineFlags, Role, Topology

PROMPT_ONLY_CACHE = "sun_prompt_only"
_CACHE = "disaggregation_decode_enable_radix_cache"

# KV memory of a worker without a GPU: this part of the memory is divided among all workers, ...
_CPU_KV_SHARE = 0.125
# ... and no worker gets more tokens than this, ...
_CPU_KV_TOKENS = 65536
# ... nor more than this where the checkpoint could not be read and a token's size is unknown.
_CPU_KV_TOKENS_UNREAD = 16384
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def worker_flags(
    topology: Topology,
    machine: Machine,
    identities: Mapping[str, Identity | None],
    pool: str,
    transfer: Transfer,
    speculative_with_cache: Collection[str] = (),
) -> EngineFlags:
    """SGLang flags of a pool's workers, without those that differ between its workers: defaults, then the user's own.

    Args:
        topology: the whole topology; which cache is right depends on the tasks.
        machine: a machine without a GPU needs other defaults.
        identities: each pool's identity, as far as known.
        pool: the pool's name.
        transfer: as chosen for the whole launch.
        speculative_with_cache: what SGLang combines with the decode cache (`FlagSchema`); nothing where it is unknown.
    """
    user = canonical(topology.engine_of(pool))
    role = topology.pools[pool].role
    defaults: EngineFlags = {"enable_cache_report": True}
    if not uses_gpu(topology, machine, pool):
        defaults |= dtype_default(topology, machine, pool) | _cpu_defaults(role)
        count = sum(p.replicas * data_parallel_ranks(topology, name) for name, p in topology.pools.items())
        if topology.backend_of(pool) == "sglang":
            defaults["max_total_tokens"] = cpu_kv_tokens(identities.get(pool), machine, count)
    if role == "decode":
        stock = same_weights(topology, identities, pool)
        if not _cache_declined(user, identities.get(pool), speculative_with_cache, stock=stock):
            defaults |= {_CACHE: True} if stock else {_CACHE: True, "radix_cache_backend": PROMPT_ONLY_CACHE}
    return defaults | user | {"disaggregation_transfer_backend": transfer.backend}


def dtype_default(topology: Topology, machine: Machine, pool: str) -> EngineFlags:
    """The dtype of a pool whose user set none: SGLang's own on a GPU, what the processor can multiply without one."""
    if uses_gpu(topology, machine, pool):
        return {}
    return {"dtype": "bfloat16" if machine.cpu_bf16 else "float32"}


def cache_notes(
    topology: Topology,
    identities: Mapping[str, Identity | None],
    pool: str,
    flags: EngineFlags,
    speculative_with_cache: Collection[str] = (),
) -> list[str]:
    """Return what a user's settings or the model did to the decode cache of a pool, as sentences.

    Args:
        topology: the whole topology.
        identities: each pool's identity, as far as known.
        pool: the pool's name.
        flags: its workers' flags, from `worker_flags`.
        speculative_with_cache: as for `worker_flags`.
    """
    if topology.pools[pool].role != "decode":
        return []
    asked = canonical(topology.engine_of(pool))
    stock = same_weights(topology, identities, pool)
    obstacle = _cache_obstacle(asked, identities.get(pool), speculative_with_cache, stock=stock)
    if obstacle:
        return [f"Pool `{pool}` has no decode cache: SGLang cannot combine it with {obstacle}."]
    if flags.get(_CACHE) and "radix_cache_backend" in asked:
        return [
            f"Pool `{pool}` sets `radix_cache_backend` itself: a cache other than `{PROMPT_ONLY_CACHE}` may keep the "
            "decode model's own KV, so tasks with other prefill weights reuse nothing of it."
        ]
    return []


def cpu_kv_tokens(identity: Identity | None, machine: Machine, caches: int) -> int:
    """Tokens of KV in each KV cache of the workers without a GPU.

    An eighth of the machine's memory is divided among all caches, up to 65,536 tokens each; 16,384 where the
    checkpoint could not be read. Without a bound SGLang takes most of the memory for each worker.
    """
    if identity is None:
        return _CPU_KV_TOKENS_UNREAD
    width = _DTYPE_BYTES.get(identity.kv_dtype, 4)
    token = 2 * identity.num_layers * identity.num_kv_heads * identity.head_dim * width
    return max(1, min(_CPU_KV_TOKENS, int(machine.memory * _CPU_KV_SHARE / caches) // token))


def _cpu_defaults(role: Role) -> EngineFlags:
    flags: EngineFlags = {
        "device": "cpu",
        "attention_backend": "torch_native",
        "cuda_graph_backend_decode": "disabled",
        "cuda_graph_backend_prefill": "disabled",
        # what overlaps is CUDA streams, and a prefix found in the prefill cache is sent early with a CUDA event
        # (SGLang: `disaggregation/prefill.py`), which ends a CPU scheduler
        "disable_overlap_schedule": True,
        # an idle scheduler would burn a core
        "sleep_on_idle": True,
    }
    if role == "decode":
        # SGLang's default pins host memory through CUDA
        flags["disaggregation_decode_retraction_backup"] = "cpu_tensor"
    return flags


def _cache_declined(
    user: EngineFlags, identity: Identity | None, speculative_with_cache: Collection[str], *, stock: bool
) -> bool:
    """Return whether a user's setting or the model leaves no room for a decode cache."""
    obstacle = _cache_obstacle(user, identity, speculative_with_cache, stock=stock)
    return bool(obstacle or user.get("disable_radix_cache") or (_CACHE in user and not user[_CACHE]))


def _cache_obstacle(
    user: EngineFlags, identity: Identity | None, speculative_with_cache: Collection[str], *, stock: bool
) -> str | None:
    """Return what SGLang cannot combine with the decode cache that the pool would get; None if nothing.

    SGLang checks the flags in `arg_groups/pd_disaggregation_hook.py` and `arg_groups/mamba_hook.py`.

    Args:
        user: the pool's flags as the user set them.
        identity: the pool's; None if unknown.
        speculative_with_cache: as for `worker_flags`.
        stock: the pool would get SGLang's own cache.
    """
    if user.get("enable_hisparse"):
        return "`enable_hisparse`"
    if user.get("disaggregation_decode_allocation_policy") == "prefill_complete":
        return "`disaggregation_decode_allocation_policy: prefill_complete`"
    algorithm = user.get("speculative_algorithm")
    if algorithm is not None and algorithm not in speculative_with_cache:
        return f"`speculative_algorithm: {algorithm}`"
    if user.get("enable_int8_mamba_checkpoint") and not stock and "radix_cache_backend" not in user:
        return "`enable_int8_mamba_checkpoint` where tasks have prefill weights of their own"
    asked = _CACHE in user or user.get("disable_radix_cache")
    if identity is not None and not asked and refuses_decode_cache(identity.architecture):
        return f"the architecture `{identity.architecture}`"
    return None


def same_weights(topology: Topology, identities: Mapping[str, Identity | None], decode: str) -> bool:
    """Return whether every task of a decode pool is prefilled by the very module that decodes it."""
    prefills = [task.prefill for task in topology.tasks.values() if task.decode == decode]
    return all(_one_module(topology, identities, prefill, decode) for prefill in prefills)


def _one_module(topology: Topology, identities: Mapping[str, Identity | None], prefill: str, decode: str) -> bool:
    a, b = topology.engine_of(prefill), topology.engine_of(decode)
    if any(a.get(key) != b.get(key) for key in MODULE_FLAGS):
        return False
    left, right = identities.get(prefill), identities.get(decode)
    if left is not None and right is not None:
        return left.weights == right.weights
    p, d = topology.pools[prefill], topology.pools[decode]
    return (p.model, p.revision) == (d.model, d.revision)
