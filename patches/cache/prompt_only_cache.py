"""Keep only KV that a prefill worker made in the decode cache.

SGLang's decode worker inserts the prompt at admission. It inserts prompt and answer when a request ends, and when a
retracted request resumes. The decode module made the answer's KV; on a later turn of the conversation an uncached run
would compute it with the task's prefill module. With different weights on the two sides an answer would then depend on
the content of the cache.

This cache inserts at admission only, when a request holds its prompt and nothing else. Of a prompt whose last token the
decode worker runs (`../first_token/`) it inserts the tokens before that one. A shorter key at a later time is not
enough: by then a recurrent (Mamba) state includes the answer, and sliding windows have dropped parts of the prompt.

Registered as the radix cache backend `PROMPT_ONLY_BACKEND`, which `--radix-cache-backend` selects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sun_sglang.contracts.decode_cache import PROMPT_ONLY_BACKEND
from sun_sglang.patches.first_token.last_token import prefilled_tokens
from sun_sglang.patches.patch import Patch, Signature
from sun_sglang.patches.versions import on

# from 0.5.22 on a request enters the tree through one method, before through two
_ONE_WAY_IN = {"checkpoint": ("self", "req", "up_to", "kwargs"), "on_release": ("self", "req", "checkpointed")}
_TWO_WAYS_IN = {
    "insert_req": ("self", "req", "up_to", "kwargs"),
    "cache_unfinished_req": ("self", "req", "chunked", "kwargs"),
    "on_release": ("self", "req", "inserted"),
}
_VERSIONS = {
    "0.5.21": "bounds `insert_req` and `cache_unfinished_req`",
    **on("bounds `checkpoint`", ("0.5.22", "0.5.23")),
}


def build(context: Any) -> Any:
    """Build the cache for a scheduler (`sglang/srt/mem_cache/registry.py`, `RadixCacheFactory`).

    Like SGLang, use another cache class for a model in which every layer has a sliding window.
    """
    from sglang.srt.mem_cache.pure_swa_radix_cache import PureSWARadixCache
    from sglang.srt.mem_cache.registry import create_unified_radix_cache
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    if context.is_hybrid_swa and context.full_tokens_per_layer == 0:
        return _prompt_only(PureSWARadixCache)(params=context.params)
    return create_unified_radix_cache(context, cache_class=_prompt_only(UnifiedRadixCache))


def _bounded_methods() -> Mapping[str, Signature]:
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    return _ONE_WAY_IN if hasattr(UnifiedRadixCache, "checkpoint") else _TWO_WAYS_IN


def _prompt_only(base: type) -> type:
    """Return a subclass of one of SGLang's caches that inserts prompts only."""
    return _with_one_way_in(base) if _bounded_methods() is _ONE_WAY_IN else _with_two_ways_in(base)


def _is_admitted(req: Any, filled: int) -> bool:
    """Return whether a request holds its prompt as a prefill worker sent it.

    A request that was retracted and has resumed does not, even without a token of its answer: SGLang restores the slots
    of sliding windows in part only (`mem_cache/swa_memory_pool.py`, `load_cpu_copy`).

    Args:
        req: a running request.
        filled: number of its tokens that have KV.
    """
    return not req.retracted_stain and filled <= prefilled_tokens(req)


def _with_one_way_in(base: Any) -> type:
    class PromptOnlyRadixCache(base):  # type: ignore[misc]  # the class is known at run time only
        """A radix cache whose nodes never extend past a request's prompt."""

        def checkpoint(self, req: Any, *, up_to: int, **kwargs: Any) -> None:
            """Insert the prompt at admission; insert nothing when a request resumes or ends."""
            if req.finished():
                # frees the slots that the tree would own
                self.on_release(req, checkpointed=False)
            elif _is_admitted(req, up_to):
                super().checkpoint(req, up_to=up_to, **kwargs)

    return PromptOnlyRadixCache


def _with_two_ways_in(base: Any) -> type:
    import torch

    class PromptOnlyRadixCache(base):  # type: ignore[misc]  # the class is known at run time only
        """A radix cache whose nodes never extend past a request's prompt."""

        def insert_req(self, req: Any, *, up_to: int, **kwargs: Any) -> None:
            """Insert nothing when a request ends; free the slots that the tree would own."""
            self.on_release(req, inserted=False)

        def cache_unfinished_req(self, req: Any, chunked: bool = False, **kwargs: Any) -> None:
            """Insert the prompt at admission; insert nothing when a request resumes."""
            filled = len(req.get_fill_ids())
            if _is_admitted(req, filled):
                super().cache_unfinished_req(req, chunked=chunked, **kwargs)
                return
            row = self.req_to_token_pool.req_to_token[req.kv.req_pool_idx, :filled]
            req.prefix_indices = row.to(dtype=torch.int64, copy=True)

    return PromptOnlyRadixCache


class CacheBackend(Patch):
    """A radix cache that is offered to SGLang by name and selected with a flag; it hooks no function."""

    def require_target(self) -> None:
        """Raise unless the registry and the overridden methods have the expected parameters.

        Raises:
            PatchError: names the method and the difference.
        """
        super().require_target()
        from sglang.srt.mem_cache.pure_swa_radix_cache import PureSWARadixCache
        from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

        for base in (UnifiedRadixCache, PureSWARadixCache):
            for name, parameters in _bounded_methods().items():
                plain = tuple(p for p in parameters if p != "kwargs")
                self.require_parameters(getattr(base, name, None), f"{base.__name__}.{name}", (parameters, plain))

    def register(self) -> None:
        """Register the cache under its name."""
        from sglang.srt.mem_cache.registry import get_radix_cache_factory, register_radix_cache_backend

        if get_radix_cache_factory(PROMPT_ONLY_BACKEND) is None:
            register_radix_cache_backend(PROMPT_ONLY_BACKEND, self.hook)

    def is_applied(self) -> bool:
        """Return whether SGLang builds this cache for its name."""
        from sglang.srt.mem_cache.registry import get_radix_cache_factory

        return get_radix_cache_factory(PROMPT_ONLY_BACKEND) is self.hook


PATCH = CacheBackend(
    name="prompt_only_cache",
    target="sglang.srt.mem_cache.registry.register_radix_cache_backend",
    parameters=(("name", "factory"),),
    kind="register",
    hook=build,
    why="the second turn of a conversation would reuse KV that the shared decode module made for the first answer",
    versions=_VERSIONS,
    removable_when="when SGLang's decode radix cache can be bounded to the transferred prompt",
)
