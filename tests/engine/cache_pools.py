"""SGLang's pools of KV slots and Mamba states on the CPU, for the tests of the decode cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from sglang.srt.configs.mamba_utils import Mamba2CacheParams, Mamba2StateShape
from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator, TokenToKVPoolAllocator
from sglang.srt.mem_cache.allocator.swa import PureSWATokenToKVPoolAllocator, SWATokenToKVPoolAllocator
from sglang.srt.mem_cache.memory_pool import HybridLinearKVPool, HybridReqToTokenPool, MHATokenToKVPool, ReqToTokenPool
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool

Kind = Literal["full", "window", "window-only", "mamba", "mamba-tracked"]
REQUESTS = 6
_KV: dict[str, Any] = {"dtype": torch.bfloat16, "head_num": 1, "head_dim": 8, "device": "cpu"}


@dataclass
class Pools:
    """SGLang's pools of one worker.

    Attributes:
        rows: the table from requests to their slots, with the Mamba pool where there is one.
        slots: the allocator of KV slots.
        window: the sliding window in tokens; None without one.
        tracked: states are kept every page while an answer is made (`extra_buffer`), not at its end (`no_buffer`).
    """

    rows: Any
    slots: Any
    page: int
    window: int | None = None
    tracked: bool = False

    @property
    def mamba(self) -> Any:
        """The Mamba pool; None without one."""
        return getattr(self.rows, "mamba_pool", None)

    def free(self) -> tuple[int, ...]:
        """Return how many rows, KV slots, window slots and states are free."""
        windowed = self.window is not None
        kv = self.slots.full_available_size() if windowed else self.slots.available_size()
        window = self.slots.swa_available_size() if windowed else 0
        states = self.rows.mamba_allocator.available_size() if self.mamba else 0
        return self.rows.available_size(), kv, window, states


def make_pools(kind: Kind, page: int, tokens: int) -> Pools:
    """Build the pools of a model with one layer of each type that the kind names.

    Args:
        kind: the layers of the model.
        page: tokens of a page.
        tokens: size of the KV pool in tokens.
    """
    rows: Any = ReqToTokenPool(size=REQUESTS, max_context_len=1024, device="cpu", enable_memory_saver=False)
    paged = {"size": tokens, "page_size": page}
    allocator = {"dtype": torch.bfloat16, "device": "cpu", "need_sort": False}
    if kind in ("window", "window-only"):
        only = kind == "window-only"
        layers = {"swa_attention_layer_ids": [0], "full_attention_layer_ids": [] if only else [1]}
        kv = SWAKVPool(**_KV, **layers, **paged | {"size": 0 if only else tokens}, size_swa=tokens)
        if only:
            slots: Any = PureSWATokenToKVPoolAllocator(size_swa=tokens, page_size=page, kvcache=kv, **allocator)
        else:
            slots = SWATokenToKVPoolAllocator(**paged, size_swa=tokens, kvcache=kv, **allocator)
        return Pools(rows, slots, page, window=2 * page if page > 1 else 8)
    if kind == "full":
        kv = MHATokenToKVPool(**_KV, **paged, layer_num=1, enable_memory_saver=False)
    else:
        rows = _mamba_rows(tracked=kind == "mamba-tracked")
        kv = HybridLinearKVPool(
            **_KV, **paged, full_attention_layer_ids=[1], enable_memory_saver=False, mamba_pool=rows.mamba_pool
        )
    if page == 1:
        slots = TokenToKVPoolAllocator(tokens, kvcache=kv, **allocator)
    else:
        slots = PagedTokenToKVPoolAllocator(**paged, kvcache=kv, **allocator)
    return Pools(rows, slots, page, tracked=kind == "mamba-tracked")


def _mamba_rows(*, tracked: bool) -> Any:
    sizes = {"intermediate_size": 8, "n_groups": 1, "num_heads": 1, "head_dim": 8, "state_size": 8, "conv_kernel": 2}
    shape = Mamba2StateShape.create(tp_world_size=1, **sizes)
    return HybridReqToTokenPool(
        size=REQUESTS,
        mamba_size=6 * REQUESTS,
        mamba_spec_state_size=REQUESTS,
        max_context_len=1024,
        device="cpu",
        enable_memory_saver=False,
        cache_params=Mamba2CacheParams(shape=shape, layers=[0]),
        mamba_layer_ids=[0],
        enable_mamba_extra_buffer=tracked,
        speculative_num_draft_tokens=1,
    )
