"""Prompts of random token ids, and of shared blocks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.workload.prompts.random_tokens import RandomTokens, SharedBlocks, token_range


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 300), st.integers(0, 10**6))
def test_random_tokens_have_the_wished_number_within_the_range(low: int, more: int, number: int, index: int) -> None:
    prompt = RandomTokens(3, low, low + more).prompt(index, "math", number)
    assert len(prompt) == number
    assert all(low <= token <= low + more for token in prompt)


def test_random_tokens_are_uniform() -> None:
    prompt = RandomTokens(1, 10, 19).prompt(0, "math", 20_000)
    assert all(abs(prompt.count(token) - 2000) < 5 * math.sqrt(1800) for token in range(10, 20))


def test_random_tokens_differ_by_index_and_seed_and_not_by_task() -> None:
    ids = RandomTokens(1, 0, 9999)
    assert ids.prompt(0, "math", 50) == ids.prompt(0, "code", 50)
    assert ids.prompt(0, "math", 50)[:5] != ids.prompt(1, "math", 50)[:5]
    assert ids.prompt(0, "math", 50)[:5] != RandomTokens(2, 0, 9999).prompt(0, "math", 50)[:5]
    assert ids.digest != RandomTokens(2, 0, 9999).digest


def test_shared_blocks_equal_blocks_have_equal_tokens() -> None:
    prompts = SharedBlocks(RandomTokens(1, 0, 9999), [[(0, 1), (0, 2)], [(0, 1), (0, 3)], [(1, 1)], []], 4)
    first, second, other_trace = (prompts.prompt(i, "math", n) for i, n in ((0, 8), (1, 6), (2, 4)))
    assert len(first) == 8
    assert len(second) == 6
    assert first[:4] == second[:4]
    assert first[4:6] != second[4:6]
    assert other_trace != first[:4]
    assert len(prompts.prompt(3, "math", 9)) == 9


def test_shared_blocks_digest_differs_with_the_blocks() -> None:
    ids = RandomTokens(1, 0, 9)
    assert SharedBlocks(ids, [[(0, 1)]], 4).digest == SharedBlocks(ids, [((0, 1),)], 4).digest
    assert SharedBlocks(ids, [[(0, 1)]], 4).digest != SharedBlocks(ids, [[(0, 2)]], 4).digest
    assert SharedBlocks(ids, [[(0, 1)]], 4).digest != SharedBlocks(ids, [[(0, 1)]], 8).digest


@pytest.mark.parametrize("text", ["", "5", "5:", ":5", "a:b", "-1:5", "1:2:3", "0:99999999", "9" * 5000 + ":1", "7:6"])
def test_token_range_of_a_wrong_text_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"no range of token ids|is above the highest"):
        token_range(text)
