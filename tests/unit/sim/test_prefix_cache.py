from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.sim.prefix_cache import PrefixCache

PROMPT = list(range(20))


def test_prefixes_are_whole_pages_and_apart_for_each_namespace() -> None:
    cache = PrefixCache(page_size=4, kv_tokens=100)
    cache.insert("a", PROMPT[:10])
    assert cache.match("a", PROMPT) == 8
    assert cache.match("a", [1, *PROMPT]) == 0
    assert cache.match("b", PROMPT) == 0
    cache.clear()
    assert cache.match("a", PROMPT) == 0


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), max_size=20))
def test_a_prefix_cache_remembers_no_more_than_fits_and_nothing_that_was_not_there(prompts: list[list[int]]) -> None:
    cache = PrefixCache(page_size=1, kv_tokens=40)
    for i, prompt in enumerate(prompts):
        known = cache.match("a", prompt)
        assert any(other[:known] == prompt[:known] for other in [*prompts[:i], []])
        cache.insert("a", prompt)
        assert cache.match("a", prompt) == len(prompt)


def test_eviction_takes_the_ends_of_the_prompt_that_was_used_longest_ago() -> None:
    """A page whose beginning is gone is of no use, and would take the room of one that is."""
    cache = PrefixCache(page_size=2, kv_tokens=12)
    old, new = [1, 1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2]
    cache.insert("a", old)
    cache.insert("a", new)
    assert (cache.match("a", old), cache.match("a", new)) == (6, 6)
    cache.insert("a", [*new, 3, 3, 3, 3])
    assert (cache.match("a", old), cache.match("a", new)) == (2, 6)
