"""Which prefixes of earlier prompts are cached: whole pages, apart for each namespace, least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

# about 8 MiB; a longer memory costs more than it tells
_MOST_PAGES = 65536


class PrefixCache:
    """A prefix cache that keeps no KV, only what was seen.

    A page is known by a hash over everything before it, as in SGLang's radix tree a page is known by its path. Cached
    KV gives way to running requests there, so it takes nothing from the capacity here.

    Args:
        page_size: tokens a page.
        kv_tokens: tokens that fit.
    """

    def __init__(self, *, page_size: int, kv_tokens: int) -> None:
        self._page = page_size
        self._most = max(1, min(kv_tokens // page_size, _MOST_PAGES))
        self._pages: OrderedDict[int, None] = OrderedDict()

    def match(self, namespace: str, prompt: Sequence[int]) -> int:
        """Tokens at the prompt's start that are cached."""
        known = 0
        for key in self._keys(namespace, prompt):
            if key not in self._pages:
                break
            known += self._page
        return known

    def insert(self, namespace: str, prompt: Sequence[int]) -> None:
        """Remember a prompt's whole pages."""
        for key in self._keys(namespace, prompt):
            self._pages[key] = None
            self._pages.move_to_end(key)
        while len(self._pages) > self._most:
            self._pages.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._pages.clear()

    def _keys(self, namespace: str, prompt: Sequence[int]) -> list[int]:
        key, keys = hash(namespace), []
        for start in range(0, len(prompt) - self._page + 1, self._page):
            key = hash((key, *prompt[start : start + self._page]))
            keys.append(key)
        return keys
