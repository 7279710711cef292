"""The decode cache keeps only KV that a prefill worker made.

SGLang's decode worker inserts the prompt at admission, and prompt plus answer when a request ends. The answer's KV was
made by the decode module; on a later turn of the conversation an uncached run would have it made by the task's prefill
module. With different weights on the two sides an answer would then depend on what happened to be cached.

Registered as the radix cache backend `sun_prompt_only`, chosen with `--radix-cache-backend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sun_sglang.patches.patch import Patch, Signature
from sun_sglang.patches.versions import on

BACKEND = "sun_prompt_only"
# flags by which a decode worker keeps the KV of answers in a place that this cache does not bound
OTHER_STORES = (
    "disaggregation_decode_enable_offload_kvcache",
    "enable_hierarchical_cache",
    "enable_unified_cache_external_linker",
    "enable_lmcache",
    "enable_flexkv",
)
# a request enters the tree through one method from 0.5.22 on, and through two before
_ONE_WAY_IN = {"checkpoint": ("self", "req", "up_to", "kwargs")}
_TWO_WAYS_IN = {
    "insert_req": ("self", "req", "up_to", "kwargs"),
    "cache_unfinished_req": ("self", "req", "chunked", "kwargs"),
}
_VERSIONS = {
    "0.5.21": "bounds `insert_req` and `cache_unfinished_req`",
    **on("bounds `checkpoint`", ("0.5.22", "0.5.23")),
}


def build(context: Any) -> Any:
    """Build the cache for a scheduler (`sglang/srt/mem_cache/registry.py`, `RadixCacheFactory`)."""
    from sglang.srt.mem_cache.registry import create_unified_radix_cache

    return create_unified_radix_cache(context, cache_class=_prompt_only_class())


def _bounded_methods() -> Mapping[str, Signature]:
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    return _ONE_WAY_IN if hasattr(UnifiedRadixCache, "checkpoint") else _TWO_WAYS_IN


def _prompt_only_class() -> type:
    return _with_one_way_in() if _bounded_methods() is _ONE_WAY_IN else _with_two_ways_in()


def _bound(req: Any) -> int:
    """Return how many of a request's tokens may enter the tree: its prompt, or what came from the tree already."""
    return max(len(req.origin_input_ids), int(req.kv.cache_protected_len))


def _with_one_way_in() -> type:
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    class PromptOnlyRadixCache(UnifiedRadixCache):  # type: ignore[misc]  # SGLang's classes are untyped here
        """A radix cache whose nodes never reach past a request's prompt."""

        def checkpoint(self, req: Any, *, up_to: int, **kwargs: Any) -> None:
            """Insert a running, retracted or finished request, its prompt only."""
            super().checkpoint(req, up_to=min(up_to, _bound(req)), **kwargs)

    return PromptOnlyRadixCache


def _with_two_ways_in() -> type:
    import torch
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    class PromptOnlyRadixCache(UnifiedRadixCache):  # type: ignore[misc]  # SGLang's classes are untyped here
        """A radix cache whose nodes never reach past a request's prompt."""

        def insert_req(self, req: Any, *, up_to: int, **kwargs: Any) -> None:
            """Insert a finished or retracted request, its prompt only."""
            super().insert_req(req, up_to=min(up_to, _bound(req)), **kwargs)

        def cache_unfinished_req(self, req: Any, chunked: bool = False, **kwargs: Any) -> None:
            """Insert a running request's prompt; leave one that resumes with part of its answer as it is."""
            filled = len(req.get_fill_ids())
            if filled <= len(req.origin_input_ids):
                super().cache_unfinished_req(req, chunked=chunked, **kwargs)
                return
            row = self.req_to_token_pool.req_to_token[req.kv.req_pool_idx, :filled]
            req.prefix_indices = row.to(dtype=torch.int64, copy=True)

    return PromptOnlyRadixCache


class CacheBackend(Patch):
    """A radix cache offered to SGLang by name: no hook, and chosen with a flag."""

    def require_target(self) -> None:
        """Raise unless the registry and the methods that the cache bounds are as they were read.

        Raises:
            PatchError: names the method and the difference.
        """
        super().require_target()
        from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

        for name, parameters in _bounded_methods().items():
            self.require_parameters(getattr(UnifiedRadixCache, name, None), f"UnifiedRadixCache.{name}", (parameters,))

    def register(self) -> None:
        """Offer the cache under its name."""
        from sglang.srt.mem_cache.registry import get_radix_cache_factory, register_radix_cache_backend

        if get_radix_cache_factory(BACKEND) is None:
            register_radix_cache_backend(BACKEND, self.hook)

    def in_place(self) -> bool:
        """Whether SGLang would build this cache when asked for it by name."""
        from sglang.srt.mem_cache.registry import get_radix_cache_factory

        return get_radix_cache_factory(BACKEND) is self.hook


PATCH = CacheBackend(
    name="prompt_only_cache",
    target="sglang.srt.mem_cache.registry.register_radix_cache_backend",
    parameters=(("name", "factory"),),
    kind="register",
    hook=build,
    why="a conversation's second turn would reuse KV that the shared decode module made for the first answer",
    versions=_VERSIONS,
    way_out="when SGLang's decode radix cache can be bounded to the transferred prompt",
)
