"""The bound on the KV memory of a worker without a GPU. Pure."""

from __future__ import annotations

from sun_sglang.checkpoint.kv.size import kv_bytes_per_token
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.launch.planning.hardware.machine import Machine

# the share of the machine's memory that all KV caches together may take
_SHARE = 0.125
_MOST_TOKENS = 65536
# the bound where the checkpoint cannot be read, so that the size of a token is unknown
_MOST_TOKENS_UNREAD = 16384


def cpu_kv_tokens(identity: Identity | None, machine: Machine, caches: int) -> int:
    """Return the tokens of KV in each KV cache of the workers without a GPU.

    An eighth of the machine's memory is divided among all caches, up to 65,536 tokens each; 16,384 where the
    checkpoint could not be read. Without a bound SGLang takes most of the memory for each worker.

    Args:
        identity: the pool's identity; None where its checkpoint could not be read.
        machine: the machine with all of the caches.
        caches: number of KV caches on the machine.
    """
    if identity is None:
        return _MOST_TOKENS_UNREAD
    memory = int(machine.memory * machine.machines * _SHARE / caches)
    return max(1, min(_MOST_TOKENS, memory // kv_bytes_per_token(identity)))
