"""Allocate KV pages of more than one token on a CPU.

The paged allocator of SGLang 0.5.21 allocates slots with two Triton kernels, which need a GPU. The same file has a
plain torch version of the first kernel, and the second is the first with one new token per request. Later versions
have plain torch versions of both.
"""

from __future__ import annotations

from typing import Any

from sun_sglang.cpu import has_gpu
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import inactive

_MODULE = "sglang.srt.mem_cache.allocator.paged"
_WHY = "the allocator's Triton kernels need a GPU; with `page_size` above 1 the first request would end the server"
_NATIVE = "SGLang allocates pages on a CPU itself"
_VERSIONS = {
    "0.5.21": "allocates with the plain torch version",
    **inactive(_NATIVE, ("0.5.22", "0.5.23")),
}
_REMOVABLE_WHEN = "when SGLang 0.5.21 is no longer supported"


def inactive_reason() -> str | None:
    """Return why this process does not need the hook; None on a CPU where SGLang has only the kernels."""
    if has_gpu():
        return "this machine has a GPU"
    from sglang.srt.mem_cache.allocator import paged

    return _NATIVE if hasattr(paged, "alloc_decode_naive") else None


def alloc_extend(
    self: Any,
    prefix_lens: Any,
    prefix_lens_cpu: Any,
    seq_lens: Any,
    seq_lens_cpu: Any,
    last_loc: Any,
    extend_num_tokens: int,
    num_new_pages: int | None = None,
) -> Any:
    """Return slots for new tokens, `(extend_num_tokens,)` int64; None if too few pages are free.

    Args:
        self: the allocator.
        prefix_lens: tokens that each request has, `(batch,)`.
        prefix_lens_cpu: the same, on the CPU.
        seq_lens: tokens that each request will have, `(batch,)`.
        seq_lens_cpu: the same, on the CPU.
        last_loc: slot of each request's last token, `(batch,)`.
        extend_num_tokens: sum of `seq_lens - prefix_lens`.
        num_new_pages: pages to take; None to compute the number.
    """
    import torch
    from sglang.srt.mem_cache.allocator.paged import alloc_extend_naive
    from sglang.srt.utils import get_num_new_pages

    pages = num_new_pages
    if pages is None:
        pages = get_num_new_pages(seq_lens=seq_lens_cpu, page_size=self.page_size, prefix_lens=prefix_lens_cpu)
    if pages > len(self.free_pages):
        self.merge_and_sort_free()
    if pages > len(self.free_pages):
        return None
    out = torch.empty((extend_num_tokens,), dtype=torch.int64, device=self.device)
    alloc_extend_naive(prefix_lens, seq_lens, last_loc, self.free_pages, out, self.page_size, self.device)
    self.free_pages = self.free_pages[pages:]
    return out


def alloc_decode(self: Any, seq_lens: Any, seq_lens_cpu: Any, last_loc: Any) -> Any:
    """Return a slot for one new token per request, `(batch,)` int64; None if too few pages are free.

    Args:
        self: the allocator.
        seq_lens: tokens that each request will have, `(batch,)`.
        seq_lens_cpu: the same, on the CPU.
        last_loc: slot of each request's last token, `(batch,)`.
    """
    return alloc_extend(self, seq_lens - 1, seq_lens_cpu - 1, seq_lens, seq_lens_cpu, last_loc, len(seq_lens))


EXTEND = Patch(
    name="paged_alloc_cpu.extend",
    target=f"{_MODULE}.PagedTokenToKVPoolAllocator.alloc_extend",
    parameters=(
        (
            "self",
            "prefix_lens",
            "prefix_lens_cpu",
            "seq_lens",
            "seq_lens_cpu",
            "last_loc",
            "extend_num_tokens",
            "num_new_pages",
        ),
    ),
    kind="replace",
    hook=alloc_extend,
    why=_WHY,
    versions=_VERSIONS,
    removable_when=_REMOVABLE_WHEN,
    inactive_reason=inactive_reason,
)
DECODE = Patch(
    name="paged_alloc_cpu.decode",
    target=f"{_MODULE}.PagedTokenToKVPoolAllocator.alloc_decode",
    parameters=(("self", "seq_lens", "seq_lens_cpu", "last_loc"),),
    kind="replace",
    hook=alloc_decode,
    why=_WHY,
    versions=_VERSIONS,
    removable_when=_REMOVABLE_WHEN,
    inactive_reason=inactive_reason,
)
