"""The SGLang flags of a pool's workers: defaults that depend on machine, model and role, then the user's. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.adapters.lora_flags import accepts_adapters, lora_flags
from sun_sglang.launch.planning.decode_cache.architectures import keeps_states
from sun_sglang.launch.planning.decode_cache.choice import cache_flags
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.kv_transfer import KvTransfer
from sun_sglang.launch.planning.pool_settings import WorkerRole
from sun_sglang.launch.planning.pools import Pools, ResolvedPool
from sun_sglang.topology import EngineFlags

# the kernels of FlashInfer and TensorRT-LLM support no smaller head; Triton's support any
_SMALLEST_HEAD = 64
_FLOAT32 = ("float32", "float")
_TAKE_FLOAT32 = ("triton", "torch_native", "flex_attention")
_DATA_CENTER_BLACKWELL = re.compile(r"\bG?B[123]00\b")


def worker_flags(
    pool: ResolvedPool,
    pools: Pools,
    machine: Machine,
    transfer: KvTransfer | None,
    speculative_with_cache: Collection[str] = (),
) -> EngineFlags:
    """Return the SGLang flags of a pool's workers, without those that differ between its workers.

    A flag of the user replaces a default.

    Args:
        pool: the pool.
        pools: all pools, whose KV caches share the memory of a machine without a GPU.
        machine: where the workers run.
        transfer: as chosen for the whole launch; None where no worker transfers KV.
        speculative_with_cache: what SGLang combines with the decode cache (`FlagSchema`); nothing where it is unknown.

    Raises:
        TopologyError: the dtype is one for which a GPU's attention backend has no kernel.
    """
    defaults: EngineFlags = {"enable_cache_report": True}
    if not pool.uses_gpu:
        caches = sum(p.replicas * p.kv_caches for p in pools.values())
        memory = pool.kind.kv_memory_flags(pool.identity, machine, caches)
        defaults |= pool.dtype | _cpu_defaults(pool.role) | memory
        if accepts_adapters(pool, pool.adapters):
            # SGLang's default is written in Triton
            defaults["lora_backend"] = "torch_native"
    elif pool.identity is not None:
        defaults |= _gpu_defaults(pool.identity, machine)
    if pool.role == "prefill":
        defaults |= lora_flags(pool, pool.adapters)
    if pool.role == "decode":
        defaults |= cache_flags(pool, defaults | pool.flags, speculative_with_cache)
    flags = defaults | pool.flags | ({"disaggregation_transfer_backend": transfer.backend} if transfer else {})
    if pool.uses_gpu:
        _require_kernels(pool, flags)
    return flags


def _require_kernels(pool: ResolvedPool, flags: EngineFlags) -> None:
    """Raise if a worker would fail at its first forward pass: SGLang does not check dtype against attention backend."""
    common = flags.get("attention_backend")
    backends = [flags.get(f"{role}_attention_backend") or common for role in ("prefill", "decode")]
    if flags.get("dtype") in _FLOAT32 and not all(backend in _TAKE_FLOAT32 for backend in backends):
        raise TopologyError(
            pool.flag_path("dtype"),
            f"`{flags['dtype']}`: FA3, FlashInfer and TensorRT-LLM have attention for bfloat16 and float16 only",
            "remove it: the dtype then follows the model and the machine",
        )


def _gpu_defaults(identity: Identity, machine: Machine) -> EngineFlags:
    small = identity.head_dim < _SMALLEST_HEAD
    # For these models SGLang chooses the backend, and its page size, by whether a worker has a radix cache
    # (`arg_groups/model_overrides/qwen3_5.py`): the page sizes of prefill and decode workers would differ
    by_cache = keeps_states(identity.architecture) and any(_DATA_CENTER_BLACKWELL.search(g.name) for g in machine.gpus)
    return {"attention_backend": "triton"} if small or by_cache else {}


def _cpu_defaults(role: WorkerRole) -> EngineFlags:
    flags: EngineFlags = {
        "device": "cpu",
        "attention_backend": "torch_native",
        "cuda_graph_backend_decode": "disabled",
        "cuda_graph_backend_prefill": "disabled",
        # an idle scheduler would keep a core busy
        "sleep_on_idle": True,
    }
    if role != "unified":
        # with the overlap SGLang sends a prefix found in the prefill cache early, with a CUDA event
        # (`disaggregation/prefill.py`), which ends a CPU scheduler
        flags["disable_overlap_schedule"] = True
    if role == "decode":
        # SGLang's default pins host memory with CUDA
        flags["disaggregation_decode_retraction_backup"] = "cpu_tensor"
    return flags
