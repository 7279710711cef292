"""The prefix cache of a worker for sessions whose context grows: a count of pages for each session. Pure.

It hits as `sim/prefix_cache.PrefixCache` does where each prompt of a session begins with the session's earlier prompts,
and the prompts of two sessions have nothing in common; and it reads no tokens.
"""

from __future__ import annotations

from collections import OrderedDict

from sun_sglang.sim.prefix_cache import MOST_PAGES


class SessionCache:
    """The cached pages of sessions, with LRU eviction; of one session the last pages are evicted first.

    Args:
        page_size: tokens per page.
        kv_tokens: tokens of KV that fit.
    """

    def __init__(self, *, page_size: int, kv_tokens: int) -> None:
        self._page = page_size
        self._most = max(1, min(kv_tokens // page_size, MOST_PAGES))
        self._sessions: OrderedDict[int, int] = OrderedDict()
        self._pages = 0

    def match(self, session: int, prompt: int) -> int:
        """Return the number of tokens at the start of a prompt of this length that are cached."""
        return min(self._sessions.get(session, 0), prompt // self._page) * self._page

    def insert(self, session: int, prompt: int) -> None:
        """Add the whole pages of a prompt."""
        before, pages = self._sessions.get(session, 0), prompt // self._page
        if pages < before:
            # the pages beyond this prompt keep their age, which a count cannot have: contexts grow
            pages = before
        self._sessions[session] = pages
        self._sessions.move_to_end(session)
        self._pages += pages - before
        while self._pages > self._most:
            oldest, held = next(iter(self._sessions.items()))
            evicted = min(held, self._pages - self._most)
            self._pages -= evicted
            if evicted == held:
                del self._sessions[oldest]
            else:
                self._sessions[oldest] = held - evicted
