"""The prefixes of earlier prompts: whole pages, apart for each namespace, with LRU eviction. Pure, without a clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

# about 8 MiB; more pages would cost more memory than they are worth
MOST_PAGES = 65536


class PrefixCache:
    """A prefix cache that stores no KV, only the keys of the pages of earlier prompts.

    The key of a page is a hash over the whole prefix that it ends; SGLang's radix tree identifies a page by its path.
    SGLang evicts cached KV for running requests, so cached pages take no capacity here.

    Args:
        page_size: tokens per page.
        kv_tokens: tokens of KV that fit.
    """

    def __init__(self, *, page_size: int, kv_tokens: int) -> None:
        self._page = page_size
        self._most = max(1, min(kv_tokens // page_size, MOST_PAGES))
        self._pages: OrderedDict[int, None] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Number of tokens that are cached, each once however many prompts have it."""
        return len(self._pages) * self._page

    def match(self, namespace: str, prompt: Sequence[int]) -> int:
        """Return the number of tokens at the start of a prompt that are cached."""
        known = 0
        for key in self._keys(namespace, prompt):
            if key not in self._pages:
                break
            known += self._page
        return known

    def insert(self, namespace: str, prompt: Sequence[int]) -> None:
        """Add the whole pages of a prompt.

        Of one prompt the last pages are evicted first, as SGLang's radix tree evicts leaves: what remains is a prefix.
        """
        for key in reversed(self._keys(namespace, prompt)):
            self._pages[key] = None
            self._pages.move_to_end(key)
        while len(self._pages) > self._most:
            self._pages.popitem(last=False)

    def clear(self) -> None:
        """Remove every page."""
        self._pages.clear()

    def _keys(self, namespace: str, prompt: Sequence[int]) -> list[int]:
        key, keys = hash(namespace), []
        for start in range(0, len(prompt) - self._page + 1, self._page):
            key = hash((key, *prompt[start : start + self._page]))
            keys.append(key)
        return keys
