"""The prefix cache of sessions is the prefix cache of their tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.plan.session_cache import SessionCache
from sun_sglang.sim.prefix_cache import PrefixCache


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), max_size=40), st.integers(1, 4), st.integers(1, 60))
def test_session_cache_under_growing_contexts_hits_as_the_cache_of_tokens(
    calls: list[tuple[int, int]], page_size: int, kv_tokens: int
) -> None:
    by_tokens = PrefixCache(page_size=page_size, kv_tokens=kv_tokens)
    by_session = SessionCache(page_size=page_size, kv_tokens=kv_tokens)
    contexts = dict.fromkeys(range(4), 0)
    for session, added in calls:
        contexts[session] += added
        prompt = [1000 * session + i for i in range(contexts[session])]
        assert by_session.match(session, len(prompt)) == by_tokens.match("", prompt)
        by_tokens.insert("", prompt)
        by_session.insert(session, len(prompt))
