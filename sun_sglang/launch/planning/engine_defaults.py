"""The SGLang flags that a worker gets where its user says nothing, and what a user's setting rules out. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.decode_cache.architectures import keeps_states
from sun_sglang.launch.planning.decode_cache.choice import cache_flags
from sun_sglang.launch.planning.engine_flags import canonical_flags
from sun_sglang.launch.planning.gpu_assignment import data_parallel_ranks, flag_path, uses_gpu
from sun_sglang.launch.planning.kv_transfer import KvTransfer
from sun_sglang.launch.planning.machine import Machine
from sun_sglang.topology import EngineFlags, Role, Topology

# KV memory of a worker without a GPU: this part of the memory is divided among all workers, ...
_CPU_KV_SHARE = 0.125
# ... and no worker gets more tokens than this, ...
_CPU_KV_TOKENS = 65536
# ... nor more than this where the checkpoint could not be read and a token's size is unknown.
_CPU_KV_TOKENS_UNREAD = 16384
# FlashInfer's kernels, and TensorRT-LLM's, take no smaller head; Triton's take any
_SMALLEST_HEAD = 64
_FLOAT32 = ("float32", "float")
_TAKE_FLOAT32 = ("triton", "torch_native", "flex_attention")
_DATA_CENTER_BLACKWELL = re.compile(r"\bG?B[123]00\b")
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def worker_flags(
    topology: Topology,
    machine: Machine,
    identities: Mapping[str, Identity | None],
    pool: str,
    transfer: KvTransfer,
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

    Raises:
        TopologyError: the dtype is one for which a GPU's attention backend has no kernel.
    """
    user = canonical_flags(topology.engine_of(pool))
    role = topology.pools[pool].role
    defaults: EngineFlags = {"enable_cache_report": True}
    if not uses_gpu(topology, machine, pool):
        defaults |= dtype_default(topology, machine, pool) | _cpu_defaults(role)
        count = sum(p.replicas * data_parallel_ranks(topology, name) for name, p in topology.pools.items())
        if topology.backend_of(pool) == "sglang":
            defaults["max_total_tokens"] = cpu_kv_tokens(identities.get(pool), machine, count)
    elif (identity := identities.get(pool)) is not None:
        defaults |= _gpu_defaults(identity, machine)
    if role == "decode":
        defaults |= cache_flags(topology, identities, pool, defaults | user, speculative_with_cache)
    flags = defaults | user | {"disaggregation_transfer_backend": transfer.backend}
    if uses_gpu(topology, machine, pool):
        _require_kernels(topology, pool, flags)
    return flags


def dtype_default(topology: Topology, machine: Machine, pool: str) -> EngineFlags:
    """The dtype of a pool whose user set none: SGLang's own on a GPU, what the processor can multiply without one."""
    if uses_gpu(topology, machine, pool):
        return {}
    return {"dtype": "bfloat16" if machine.cpu_bf16 else "float32"}


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


def _require_kernels(topology: Topology, pool: str, flags: EngineFlags) -> None:
    """Raise if a worker would fail at its first forward: SGLang does not compare dtype and attention backend."""
    common = flags.get("attention_backend")
    backends = [flags.get(f"{role}_attention_backend") or common for role in ("prefill", "decode")]
    if flags.get("dtype") in _FLOAT32 and not all(backend in _TAKE_FLOAT32 for backend in backends):
        raise TopologyError(
            flag_path(topology, pool, "dtype"),
            f"`{flags['dtype']}`: FA3, FlashInfer and TensorRT-LLM have attention for bfloat16 and float16 only",
            "remove it: the dtype then follows the model and the machine",
        )


def _gpu_defaults(identity: Identity, machine: Machine) -> EngineFlags:
    small = identity.head_dim < _SMALLEST_HEAD
    # SGLang chooses a backend and its page size by whether a worker has a radix cache (`arg_groups/model_overrides/
    # qwen3_5.py`): a prefill worker with one and a decode worker without would have other page sizes
    by_cache = keeps_states(identity.architecture) and any(_DATA_CENTER_BLACKWELL.search(g.name) for g in machine.gpus)
    return {"attention_backend": "triton"} if small or by_cache else {}


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
