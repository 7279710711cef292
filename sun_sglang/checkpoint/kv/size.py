"""The bytes that the KV of one token takes. Pure."""

from __future__ import annotations

from typing import Final

from sun_sglang.contracts.worker_card import Identity

_BITS: Final = {
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
}
# the bound for a format that is not listed: no format of SGLang takes more
_MOST_BITS: Final = 32


def kv_bytes_per_token(identity: Identity) -> int:
    """Return the bytes of KV of one token in all layers and on all ranks, without the scales beside them.

    A dtype that is not listed counts 4 bytes a value, so that a cache that is sized by it never exceeds its memory.
    """
    values = 2 * identity.num_layers * identity.num_kv_heads * identity.head_dim
    return values * _BITS.get(identity.kv_dtype, _MOST_BITS) // 8
